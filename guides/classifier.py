"""A classifier, and a Gaussian code given the class."""

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pvae.nn import MLP, encoder, positive, with_class

__all__ = ["Classifier"]


class Classifier(nn.Module):
    """The class of each datum, and a Gaussian code given the class, from networks.

    q(y, z | x) = q(y | x) N(z; loc(x, y), diag(scale(x, y))^2)

    Its sites are "y", `(batch,)`, marked for enumeration, and "z", `(batch, z_dim)`, in the plate
    "data": train it by `TraceEnum_ELBO`, which sums over all classes. Labels that are known take
    the place of q(y | x), with all mass on them.

    References:
        Semi-supervised Learning with Deep Generative Models (Kingma, Rezende, Mohamed and Welling,
        2014; section 3), https://arxiv.org/abs/1406.5298.

    Args:
        x_shape: shape of one datum; images are `(height, width)` or `(channels, height, width)`.
        classes: number of classes, at least 2.
        z_dim: number of continuous latent variables, at least 1.
        hidden: width of the one hidden layer, or widths of each, of each network.
        auxiliary: weight, in nats per labelled datum, of -log q(y | x) in training, which a bound
            at known labels does not train; in eval mode it is 0.
        code_given_class: whether q(z | x, y) depends on y. Without that, a model whose decoder
            does not depend on y needs one pass of its decoder instead of one for each class.
        network: "mlp" or "conv", as of `MeanField`.

    Raises:
        ValueError: if sizes do not fit, or the network is unknown.

    Example:
        >>> import torch
        >>> guide = Classifier(x_shape=(8, 8), z_dim=2, hidden=16)
        >>> z = guide(torch.zeros(5, 8, 8), torch.tensor([3, -1, -1, 0, 1]))
    """

    def __init__(
        self,
        *,
        x_shape: Sequence[int] = (28, 28),
        classes: int = 10,
        z_dim: int = 20,
        hidden: int | Sequence[int] = 500,
        auxiliary: float = 0.0,
        code_given_class: bool = True,
        network: str = "mlp",
    ) -> None:
        super().__init__()
        if auxiliary < 0:
            raise ValueError(f"Classifier got auxiliary={auxiliary}: expected 0 or more")
        self.classes, self.auxiliary, self.code_given_class = classes, auxiliary, code_given_class
        widths = (hidden,) if isinstance(hidden, int) else tuple(hidden)
        if not widths:
            raise ValueError(f"Classifier got hidden={hidden!r}: expected at least one width")
        features = widths[-1]
        self.classifier = encoder(network, x_shape, classes, hidden=hidden)
        self.features = encoder(network, x_shape, features, hidden=hidden)
        inputs = features + classes * code_given_class
        self.encoder = MLP(inputs, (features,), 2 * z_dim)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Run the program q(y, z | x).

        Args:
            x: a batch of data, shape `(batch, *x_shape)`.
            y: labels 0, 1, ..., and -1 where unknown, shape `(batch,)`; None if all are unknown.

        Returns:
            The value of site "z", shape `(batch, z_dim)`.
        """
        pyro.module("guide", self)
        with pyro.plate("data", len(x)):
            logits = self.classifier(x)
            if y is not None:
                logits = self._known(logits, y)
            fn = dist.Categorical(logits=logits)
            label = pyro.sample("y", fn, infer={"enumerate": "parallel"})
            code = self.features(x)
            if self.code_given_class:
                code = with_class(code, label, self.classes)
            loc, raw = self.encoder(code).chunk(2, -1)
            z: Tensor = pyro.sample("z", dist.Normal(loc, positive(raw)).to_event(1))
        return z

    def _known(self, logits: Tensor, y: Tensor) -> Tensor:
        """Logits with all mass on known labels, after the auxiliary loss."""
        known, index = y >= 0, y.clamp(min=0)
        if self.auxiliary and self.training:
            log_q = logits.log_softmax(-1).gather(-1, index[:, None]).squeeze(-1)
            loss = -self.auxiliary * log_q.masked_fill(~known, 0)
            # Factors of a guide count as log q, which the bound subtracts.
            pyro.factor("classification", loss, has_rsample=True)
        # exp(-1e4) is 0, and so are the terms of the other classes; at -inf they would be NaN.
        certain = -1e4 * (torch.arange(self.classes, device=y.device) != index[:, None])
        return torch.where(known[:, None], certain.to(logits), logits)
