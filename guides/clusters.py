"""The mean-field code of a mixture model, and the class given the code, by Bayes' rule."""

from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from pvae.nn import encoder, positive

__all__ = ["Clusters"]


class Clusters(nn.Module):
    """A Gaussian code from a network, and the class from the model: q(y | x, z) = p(y | z).

    q(y, z | x) = N(z; loc(x), diag(scale(x))^2) p(z | y) p(y) / p(z)

    For models that have `mixture`, such as `GMVAE`. Its sites are "z", `(batch, z_dim)`, and "y",
    `(batch,)`, marked for enumeration, in the plate "data". Of all q(y | x, z) this one has the
    highest bound.

    References:
        Variational Deep Embedding: An Unsupervised and Generative Approach to Clustering (Jiang,
        Zheng, Tan, Tang and Zhou, 2017), https://arxiv.org/abs/1611.05148.

    Args:
        model: has `mixture()`, which returns the distributions of the class and of the code given
            every class.
        x_shape: shape of one datum; images are `(height, width)` or `(channels, height, width)`.
        z_dim: number of continuous latent variables, at least 1.
        hidden: width of the one hidden layer, or widths of each, in the order of the data's path.
        network: "mlp" or "conv", as of `MeanField`.

    Raises:
        ValueError: if sizes do not fit, the network is unknown, or the model has no mixture.

    Example:
        >>> import torch
        >>> from pvae.models import GMVAE
        >>> model = GMVAE(x_shape=(8, 8), z_dim=2, hidden=16)
        >>> z = Clusters(model, x_shape=(8, 8), z_dim=2, hidden=16)(torch.zeros(5, 8, 8))
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        x_shape: Sequence[int] = (28, 28),
        z_dim: int = 20,
        hidden: int | Sequence[int] = 500,
        network: str = "mlp",
    ) -> None:
        super().__init__()
        if not hasattr(model, "mixture"):
            raise ValueError(
                f"{type(model).__name__} has no mixture(), which says p(y) and p(z | y): use "
                "Classifier, or a model such as GMVAE"
            )
        self.encoder = encoder(network, x_shape, 2 * z_dim, hidden=hidden)
        self._model = (model,)  # no part of this module: the model registers its parameters

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Run the program q(y, z | x).

        Args:
            x: a batch of data, shape `(batch, *x_shape)`.
            y: labels, not used.

        Returns:
            The value of site "z", shape `(batch, z_dim)`.
        """
        pyro.module("guide", self)
        model: Any = self._model[0]
        with pyro.plate("data", len(x)):
            loc, raw = self.encoder(x).chunk(2, -1)
            z: Tensor = pyro.sample("z", dist.Normal(loc, positive(raw)).to_event(1))
            classes, codes = model.mixture()
            logits = classes.logits + codes.log_prob(z[..., None, :])
            fn = dist.Categorical(logits=logits)
            pyro.sample("y", fn, infer={"enumerate": "parallel"})
        return z
