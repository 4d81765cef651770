"""A normalizing flow as the prior."""

from collections.abc import Sequence

from pyro.contrib.zuko import ZukoToPyro
from pyro.distributions import TorchDistribution

from pvae.nn.flows import zuko
from pvae.priors.prior import Prior

__all__ = ["Flow"]


class Flow(Prior):
    """A masked autoregressive flow: its density takes one pass, a draw from it z_dim passes.

    References:
        Masked Autoregressive Flow for Density Estimation (G. Papamakarios, T. Pavlakou, I. Murray,
        2017), https://arxiv.org/abs/1705.07057.
        Neural Spline Flows (C. Durkan, A. Bekasov, I. Murray, G. Papamakarios, 2019),
        https://arxiv.org/abs/1906.04032.

    Args:
        z_dim: number of latent variables, at least 2.
        transforms: number of transformations, at least 1.
        flow_hidden: widths of the networks within each transformation.
        spline: rational-quadratic splines instead of affine transformations.

    Raises:
        ValueError: if there are fewer than two latent variables, or no transformation.

    Example:
        >>> import torch
        >>> Flow(3, transforms=2)().log_prob(torch.zeros(5, 3)).shape  # nats
        torch.Size([5])
    """

    def __init__(
        self,
        z_dim: int,
        *,
        transforms: int = 3,
        flow_hidden: Sequence[int] = (64, 64),
        spline: bool = False,
    ) -> None:
        super().__init__(z_dim)
        if z_dim < 2 or transforms < 1:
            raise ValueError(
                f"Flow got z_dim={z_dim} and transforms={transforms}: give at least 2 and 1, or "
                "use Learned"
            )
        family = zuko.flows.NSF if spline else zuko.flows.MAF
        self.flow = family(z_dim, transforms=transforms, hidden_features=flow_hidden)

    def forward(self) -> TorchDistribution:
        """Return the distribution."""
        return ZukoToPyro(self.flow())
