"""Gaussian likelihoods whose dimensions are correlated given z."""

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions.transforms import ReshapeTransform
from torch.types import _size

from pvae.likelihoods.outputs import Likelihood
from pvae.nn import positive

__all__ = ["GaussianFull", "GaussianLowRank"]


class _Reshaped(dist.TransformedDistribution):  # type: ignore[misc]
    """A distribution of flat vectors, with its values in another shape."""

    def __init__(self, flat: TorchDistribution, shape: tuple[int, ...]) -> None:
        self._shape = shape
        super().__init__(flat, [ReshapeTransform(flat.event_shape, torch.Size(shape))])

    @property
    def mean(self) -> Tensor:
        """The mean, in the shape of the values."""
        mean: Tensor = self.base_dist.mean.unflatten(-1, self._shape)
        return mean

    def expand(self, batch_shape: _size, _instance: "_Reshaped | None" = None) -> "_Reshaped":
        """Return the same distribution with its batch expanded to `batch_shape`."""
        return _Reshaped(self.base_dist.expand(torch.Size(batch_shape)), self._shape)


class _Multivariate(Likelihood):
    """A likelihood whose dimensions are not independent given the output."""

    def _shaped(self, flat: TorchDistribution) -> TorchDistribution:
        return flat if len(self.x_shape) == 1 else _Reshaped(flat, self.x_shape)

    def forward(self, output: Tensor) -> TorchDistribution:
        """Return the distribution of x, of event shape `x_shape`.

        Args:
            output: of the network, shape `(*batch, outputs, *x_shape)`.

        Raises:
            ValueError: if the trailing shape is not `(outputs, *x_shape)`.
        """
        self._check(output)
        return self.distribution(output.flatten(-len(self.x_shape)))


class GaussianLowRank(_Multivariate):
    """Real x with correlated dimensions: a covariance of low rank beside the diagonal.

    N(x; loc, S (I + F F^T) S), S = diag(scale), with loc, scale and F from the network.

    Args:
        x_shape: shape of one datum.
        rank: number of columns of F, at least 1.

    Example:
        >>> x = GaussianLowRank((3,), rank=2)(torch.zeros(5, 4, 3))
        >>> x.log_prob(torch.zeros(5, 3)).shape  # nats per datum
        torch.Size([5])
    """

    def __init__(self, x_shape: Sequence[int], *, rank: int = 5) -> None:
        super().__init__(x_shape)
        if rank < 1:
            raise ValueError(f"rank is {rank}; expected at least 1, or use gaussian_pixel_scale")
        self.outputs = 2 + rank

    def distribution(self, output: Tensor) -> TorchDistribution:  # noqa: D102
        loc, raw, factor = output[..., 0, :], output[..., 1, :], output[..., 2:, :].mT
        scale = positive(raw, floor=1e-3)
        factor = scale[..., None] * factor  # relative, so that no scale makes it ill-conditioned
        return self._shaped(dist.LowRankMultivariateNormal(loc, factor, scale**2))


class GaussianFull(_Multivariate):
    """Real x with any covariance: N(x; loc, L L^T) with loc and L from the network.

    L = diag(scale) (I + R), with R below the diagonal.

    A network needs as many outputs as x has dimensions for each of them, so this is for few.

    Args:
        x_shape: shape of one datum.

    Example:
        >>> x = GaussianFull((3,))(torch.zeros(5, 4, 3))
        >>> x.covariance_matrix[0].round(decimals=3)
        tensor([[1., 0., 0.],
                [0., 1., 0.],
                [0., 0., 1.]])
    """

    def __init__(self, x_shape: Sequence[int]) -> None:
        super().__init__(x_shape)
        self.outputs = 1 + torch.Size(self.x_shape).numel()

    def distribution(self, output: Tensor) -> TorchDistribution:  # noqa: D102
        loc, raw = output[..., 0, :], output[..., 1:, :]
        scale = positive(raw.diagonal(dim1=-2, dim2=-1), floor=1e-3)
        unit = torch.eye(raw.shape[-1], dtype=raw.dtype, device=raw.device)
        factor = scale[..., None] * (unit + raw.tril(-1))
        return self._shaped(dist.MultivariateNormal(loc, scale_tril=factor))
