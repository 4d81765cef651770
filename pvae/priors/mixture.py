"""A mixture of Gaussians as the prior."""

import torch
from pyro.distributions import TorchDistribution
from torch import nn

from pvae.nn import positive
from pvae.priors.diagonal_mixture import DiagonalMixture
from pvae.priors.prior import Prior

__all__ = ["Mixture"]


class Mixture(Prior):
    """sum_c w_c N(z; loc_c, diag(scale_c)^2), all trained.

    Places start at random, with standard deviation `spread`, scales at 1 and weights equal.

    Args:
        z_dim: number of latent variables, at least 1.
        components: number of components, at least 2.
        spread: of the places at the start, at least 0.

    Raises:
        ValueError: if there are fewer than two components.

    Example:
        >>> Mixture(3, components=5)().log_prob(torch.zeros(7, 3)).shape  # nats
        torch.Size([7])
    """

    def __init__(self, z_dim: int, *, components: int = 10, spread: float = 1.0) -> None:
        super().__init__(z_dim)
        if components < 2:
            raise ValueError(f"Mixture got components={components}: give at least 2, or Learned")
        self.locs = nn.Parameter(spread * torch.randn(components, z_dim))
        self.raw = nn.Parameter(torch.zeros(components, z_dim))
        self.logits = nn.Parameter(torch.zeros(components))

    def forward(self) -> TorchDistribution:
        """Return the distribution."""
        return DiagonalMixture(self.logits, self.locs, positive(self.raw))
