"""The VAE with a prior on its decoder's weights."""

import math
from collections.abc import Sequence
from itertools import pairwise

import pyro
import pyro.distributions as dist
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.nn.functional import silu

from pvae import likelihoods

__all__ = ["BayesianVAE"]


class BayesianVAE(nn.Module):
    """A VAE whose decoder's weights are latent variables, one draw for all data.

    p(x, z, w) = N(w; 0, s^2 I) prod_n N(z_n; 0, I) p(x_n | decoder(z_n; w))

    Its sites are "w1", "w2", ..., the weights of each layer with the bias as their last row,
    `(inputs + 1, outputs)`, and in the plate "data" "z", `(batch, z_dim)`, and "x",
    `(batch, *x_shape)`. The guide `Weights` makes of it maximum likelihood, maximum a posteriori or
    variational Bayes.

    References:
        Auto-Encoding Variational Bayes (Kingma and Welling, 2013; appendix F),
        https://arxiv.org/abs/1312.6114.

    Args:
        x_shape: shape of one datum.
        z_dim: number of latent variables, at least 1.
        hidden: width of the one hidden layer of the decoder, or widths of each, in the order of the
            data's path.
        scale: standard deviation s of the weights' prior, positive.
        likelihood: a name in `pvae.likelihoods.names`, a class, or an instance.
        levels: grey levels of the data, used by the likelihoods over grey levels alone.

    Raises:
        ValueError: if sizes do not fit, or the likelihood is unknown.

    Defaults:
        guide: weights
        data: digits

    Example:
        >>> import torch
        >>> model = BayesianVAE(x_shape=(8, 8), z_dim=2, hidden=16)
        >>> x = model(torch.zeros(5, 8, 8))
        >>> model.shapes
        {'w1': (3, 16), 'w2': (17, 64)}
    """

    def __init__(
        self,
        *,
        x_shape: Sequence[int] = (28, 28),
        z_dim: int = 20,
        hidden: int | Sequence[int] = 400,
        scale: float = 1.0,
        likelihood: str | type[likelihoods.Likelihood] | likelihoods.Likelihood = "bernoulli",
        levels: int | None = None,
    ) -> None:
        super().__init__()
        widths = (hidden,) if isinstance(hidden, int) else tuple(hidden)
        if min(z_dim, *widths) < 1 or not scale > 0:
            raise ValueError(
                f"BayesianVAE got z_dim={z_dim}, hidden={hidden} and scale={scale}: expected sizes "
                "of at least 1, and a positive scale"
            )
        self.z_dim, self.scale = z_dim, scale
        self.likelihood = likelihoods.get(likelihood, x_shape, levels=levels)
        self.out_shape = (self.likelihood.outputs, *x_shape)
        sizes = (z_dim, *reversed(widths), math.prod(self.out_shape))
        self.shapes = {f"w{i}": (a + 1, b) for i, (a, b) in enumerate(pairwise(sizes), 1)}

    def prior(self, site: str, like: Tensor) -> TorchDistribution:
        """The prior of one layer's weights, of event shape `shapes[site]`.

        Args:
            site: "w1", "w2", ...
            like: a tensor of the type and device of the weights.
        """
        zeros = like.new_zeros(self.shapes[site])
        prior: TorchDistribution = dist.Normal(zeros, self.scale).to_event(2)
        return prior

    def forward(self, x: Tensor) -> Tensor:
        """Run the program p(x, z, w) with x observed.

        Args:
            x: a batch of data, shape `(batch, *x_shape)`.

        Returns:
            The value of site "x": the data, or a draw where a handler hides them.
        """
        pyro.module("model", self)
        weights = [pyro.sample(site, self.prior(site, x)) for site in self.shapes]
        zeros = x.new_zeros(self.z_dim)
        with pyro.plate("data", len(x)):
            h = pyro.sample("z", dist.Normal(zeros, zeros + 1).to_event(1))
            for i, weight in enumerate(weights):
                h = _linear(silu(h) if i else h, weight)
            output = h.unflatten(-1, self.out_shape)
            value: Tensor = pyro.sample("x", self.likelihood(output), obs=x)
        return value


def _linear(h: Tensor, weight: Tensor) -> Tensor:
    """h `(*batch, inputs)` times weights `(*particles, inputs + 1, outputs)`, plus the bias."""
    if weight.dim() == 2:
        return h @ weight[:-1] + weight[-1]
    return (h[..., None, :] @ weight[..., :-1, :] + weight[..., -1:, :]).squeeze(-2)
