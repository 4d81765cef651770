"""The base class of priors."""

from pyro.distributions import TorchDistribution
from torch import nn

from pvae._validation import whole

__all__ = ["Prior"]


class Prior(nn.Module):
    """A distribution of z with parameters of its own.

    Subclasses implement `forward`, which takes nothing and returns a distribution of event shape
    `(z_dim,)` and batch shape `()`.

    Args:
        z_dim: number of latent variables, at least 1.

    Raises:
        ValueError: if z_dim is below 1.

    Example:
        >>> import pyro.distributions as dist, torch
        >>> class Wide(Prior):
        ...     def forward(self):
        ...         return dist.Normal(torch.zeros(self.z_dim), 3.0).to_event(1)
        >>> Wide(2)().event_shape
        torch.Size([2])
    """

    def __init__(self, z_dim: int) -> None:
        super().__init__()
        whole(1, z_dim=z_dim)
        self.z_dim = z_dim

    def forward(self) -> TorchDistribution:
        """Return the distribution."""
        raise NotImplementedError(f"{type(self).__name__} does not implement forward()")
