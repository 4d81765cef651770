"""The posterior of a Bayesian VAE: of its weights, and the mean-field code of each datum."""

from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pvae.nn import encoder, positive

__all__ = ["Weights"]

_KINDS = ("variational", "map", "ml")


class Weights(nn.Module):
    """A distribution of the decoder's weights, and a Gaussian code of each datum from a network.

    q(z, w | x) = q(w) prod_n N(z_n; loc(x_n), diag(scale(x_n))^2)

    q(w) is a Gaussian with independent dimensions ("variational"), a point ("map", maximum a
    posteriori), or a point with the prior's density, which cancels ("ml", maximum likelihood).

    References:
        Auto-Encoding Variational Bayes (Kingma and Welling, 2013; appendix F),
        https://arxiv.org/abs/1312.6114.

    Args:
        model: has `shapes`, of its weights by site, and their `prior`, as `BayesianVAE`.
        kind: "variational", "map" or "ml".
        x_shape: shape of one datum; images are `(height, width)` or `(channels, height, width)`.
        z_dim: number of latent variables, at least 1.
        hidden: width of the one hidden layer, or widths of each, in the order of the data's path.
        network: "mlp" or "conv", as of `MeanField`.

    Raises:
        ValueError: if sizes do not fit, the kind or network is unknown, or the model has no
            `shapes`.

    Example:
        >>> from pvae.models import BayesianVAE
        >>> model = BayesianVAE(x_shape=(8, 8), z_dim=2, hidden=16)
        >>> guide = Weights(model, x_shape=(8, 8), z_dim=2, hidden=16)
        >>> z = guide(torch.zeros(5, 8, 8))
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        kind: str = "variational",
        x_shape: Sequence[int] = (28, 28),
        z_dim: int = 20,
        hidden: int | Sequence[int] = 400,
        network: str = "mlp",
    ) -> None:
        super().__init__()
        if kind not in _KINDS:
            raise ValueError(f"unknown kind {kind!r} of weights: give one of {', '.join(_KINDS)}")
        shapes = getattr(model, "shapes", None)
        if shapes is None:
            raise ValueError(
                f"{type(model).__name__} has no weights with a prior: use MeanField, or the model "
                "BayesianVAE"
            )
        self.kind = kind
        self.encoder = encoder(network, x_shape, 2 * z_dim, hidden=hidden)
        self.locs = nn.ParameterDict(
            {site: torch.randn(shape) / shape[0] ** 0.5 for site, shape in shapes.items()}
        )
        if kind == "variational":
            # Scales of 0.018 at the start: with those of the prior the decoder would be noise.
            self.raw = nn.ParameterDict(
                {site: torch.full(shape, -4.5) for site, shape in shapes.items()}
            )
        self._model: tuple[Any] = (model,)

    def forward(self, x: Tensor) -> Tensor:
        """Run the program q(z, w | x).

        Args:
            x: a batch of data, shape `(batch, *x_shape)`.

        Returns:
            The value of site "z", shape `(batch, z_dim)`.
        """
        pyro.module("guide", self)
        for site, loc in self.locs.items():
            if self.kind == "variational":
                pyro.sample(site, dist.Normal(loc, positive(self.raw[site])).to_event(2))
            else:
                # The density of a point is the prior's for maximum likelihood, which cancels it.
                prior = self._model[0].prior(site, loc)
                density = prior.log_prob(loc) if self.kind == "ml" else 0.0
                pyro.sample(site, dist.Delta(loc, density, event_dim=2))
        with pyro.plate("data", len(x)):
            loc, raw = self.encoder(x).chunk(2, -1)
            z: Tensor = pyro.sample("z", dist.Normal(loc, positive(raw)).to_event(1))
        return z
