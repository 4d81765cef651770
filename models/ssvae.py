"""The semi-supervised model M2: a label and a continuous code generate each datum."""

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from pvae import likelihoods, priors
from pvae.nn import decoder, with_class

__all__ = ["SSVAE"]


class SSVAE(nn.Module):
    """A label and a continuous code, decoded together; labels may be unknown.

    p(x, y, z) = p(y) p(z) p(x | decoder(z, y)), p(y) uniform

    Its sites are "y", `(batch,)`, "z", `(batch, z_dim)`, and "x", `(batch, *x_shape)`, in the plate
    "data". "y" is latent in the program: the guide `Classifier` puts all of its mass on the labels
    that are known, so that the bound is one on log p(x, y) there, and on log p(x) elsewhere.

    References:
        Semi-supervised Learning with Deep Generative Models (Kingma, Rezende, Mohamed and Welling,
        2014), https://arxiv.org/abs/1406.5298.

    Args:
        x_shape: shape of one datum; images are `(height, width)` or `(channels, height, width)`.
        classes: number of labels, at least 2.
        z_dim: number of continuous latent variables, at least 1.
        hidden: width of the one hidden layer, or widths of each, in the order of the data's path.
        likelihood: a name in `pvae.likelihoods.names`, a class, or an instance.
        prior: a name in `pvae.priors.names`, a class, or an instance; of z.
        network: "mlp" or "conv", as of `VAE`.
        levels: grey levels of the data, used by the likelihoods over grey levels alone.

    Raises:
        ValueError: if sizes do not fit, or the likelihood, prior or network is unknown.

    Defaults:
        guide: classifier
        data: digits
        labels: 100

    Example:
        >>> import torch
        >>> model = SSVAE(x_shape=(8, 8), z_dim=2, hidden=16)
        >>> x = model(torch.zeros(5, 8, 8), torch.tensor([3, -1, -1, 0, 1]))
    """

    def __init__(
        self,
        *,
        x_shape: Sequence[int] = (28, 28),
        classes: int = 10,
        z_dim: int = 20,
        hidden: int | Sequence[int] = 500,
        likelihood: str | type[likelihoods.Likelihood] | likelihoods.Likelihood = "bernoulli",
        prior: str | type[priors.Prior] | priors.Prior = "standard",
        network: str = "mlp",
        levels: int | None = None,
    ) -> None:
        super().__init__()
        if classes < 2:
            raise ValueError(f"SSVAE got classes={classes}: expected at least 2")
        self.classes = classes
        self.likelihood = likelihoods.get(likelihood, x_shape, levels=levels)
        self.prior = priors.get(prior, z_dim, x_shape=x_shape, hidden=hidden)
        outputs = self.likelihood.outputs
        self.decoder = decoder(network, z_dim + classes, x_shape, outputs=outputs, hidden=hidden)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Run the program p(x, y, z) with x observed.

        Args:
            x: a batch of data, shape `(batch, *x_shape)`.
            y: labels 0, 1, ..., and -1 where unknown, shape `(batch,)`; for the guide alone.

        Returns:
            The value of site "x": the data, or a draw where a handler hides them.
        """
        pyro.module("model", self)
        even = next(self.parameters()).new_zeros(self.classes)
        with pyro.plate("data", len(x)):
            label = pyro.sample("y", dist.Categorical(logits=even))
            z = pyro.sample("z", self.prior())
            output = self.decoder(with_class(z, label, self.classes))
            value: Tensor = pyro.sample("x", self.likelihood(output), obs=x)
        return value
