"""Gaussian priors with independent dimensions: the standard one, and one that is learned."""

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pvae.nn import positive
from pvae.priors.prior import Prior

__all__ = ["Learned", "Standard"]


class Standard(Prior):
    """N(z; 0, I), without parameters.

    Example:
        >>> Standard(3)().log_prob(torch.zeros(5, 3)).shape  # nats
        torch.Size([5])
    """

    zeros: Tensor

    def __init__(self, z_dim: int) -> None:
        super().__init__(z_dim)
        # Of the device and type of the model, which its data need not share.
        self.register_buffer("zeros", torch.zeros(z_dim), persistent=False)

    def forward(self) -> TorchDistribution:
        """Return the distribution."""
        standard: TorchDistribution = dist.Normal(self.zeros, self.zeros + 1).to_event(1)
        return standard


class Learned(Prior):
    """N(z; loc, diag(scale)^2) with trained loc and scale, which start at 0 and 1.

    Example:
        >>> sorted(name for name, _ in Learned(3).named_parameters())
        ['loc', 'raw']
    """

    def __init__(self, z_dim: int) -> None:
        super().__init__(z_dim)
        self.loc = nn.Parameter(torch.zeros(z_dim))
        self.raw = nn.Parameter(torch.zeros(z_dim))

    def forward(self) -> TorchDistribution:
        """Return the distribution."""
        learned: TorchDistribution = dist.Normal(self.loc, positive(self.raw)).to_event(1)
        return learned
