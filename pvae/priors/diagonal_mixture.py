"""A mixture of Gaussians with diagonal covariances, whose density is two matrix products."""

import math

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Categorical, constraints
from torch.types import _size

__all__ = ["DiagonalMixture"]


class DiagonalMixture(TorchDistribution):
    """sum_k w_k N(z; loc_k, diag(scale_k)^2).

    `MixtureSameFamily` computes (z_d - loc_kd)^2 / scale_kd^2 for each value, component and
    dimension. Here the square is multiplied out, so that the sum over d is a matrix product; it is
    computed in float64, since its terms may be much larger than their sum.

    Args:
        logits: unnormalized log weights, shape `(K,)`.
        loc: means, shape `(K, D)`.
        scale: standard deviations, above 0, shape `(K, D)`.
        validate_args: whether arguments and values are checked.

    Example:
        >>> loc = torch.tensor([[-1.0], [1.0]])
        >>> mixture = DiagonalMixture(torch.zeros(2), loc, torch.ones(2, 1))
        >>> mixture.log_prob(torch.zeros(5, 1)).shape  # nats
        torch.Size([5])
    """

    arg_constraints = {  # noqa: RUF012
        "logits": constraints.real_vector,
        "loc": constraints.independent(constraints.real, 2),
        "scale": constraints.independent(constraints.positive, 2),
    }
    support = constraints.real_vector

    def __init__(
        self, logits: Tensor, loc: Tensor, scale: Tensor, *, validate_args: bool | None = None
    ) -> None:
        self.logits, self.loc, self.scale = logits, loc, scale
        super().__init__(torch.Size(), loc.shape[-1:], validate_args=validate_args)

    def expand(
        self, batch_shape: _size, _instance: TorchDistribution | None = None
    ) -> "DiagonalMixture":
        """The same mixture for each entry of a batch."""
        new: DiagonalMixture = self._get_checked_instance(  # type: ignore[no-untyped-call]
            DiagonalMixture, _instance
        )
        new.logits, new.loc, new.scale = self.logits, self.loc, self.scale
        super(DiagonalMixture, new).__init__(
            torch.Size(batch_shape), self.event_shape, validate_args=False
        )
        new._validate_args = self._validate_args
        return new

    @property
    def weights(self) -> Tensor:
        """Probabilities of the components, shape `(K,)`."""
        return self.logits.softmax(-1)

    @property
    def mean(self) -> Tensor:
        """Of shape `(*batch_shape, D)`."""
        return (self.weights @ self.loc).expand(self._extended_shape())

    @property
    def variance(self) -> Tensor:
        """Of each dimension, shape `(*batch_shape, D)`."""
        squares = self.weights @ (self.scale.square() + self.loc.square())
        return squares.expand(self._extended_shape()) - self.mean.square()

    def sample(self, sample_shape: _size = torch.Size()) -> Tensor:  # noqa: B008
        """Draw values, shape `(*sample_shape, *batch_shape, D)`, without gradients."""
        shape = torch.Size((*sample_shape, *self.batch_shape))
        with torch.no_grad():
            component = Categorical(logits=self.logits, validate_args=False).sample(shape)
            return torch.normal(self.loc[component], self.scale[component])

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(value), in nats, shape `(*sample_shape, *batch_shape)`."""
        if self._validate_args:
            self._validate_sample(value)
        z, loc, scale = value.double(), self.loc.double(), self.scale.double()
        precision = scale.pow(-2)
        squares = z.square() @ precision.T - 2 * (z @ (loc * precision).T)
        constant = (loc.square() * precision).sum(-1) + 2 * scale.log().sum(-1)
        logs = -0.5 * (squares + constant + self.loc.shape[-1] * math.log(2 * math.pi))
        log_weights = self.logits.double().log_softmax(-1)
        found = (logs + log_weights).logsumexp(-1).to(value.dtype)
        return found.expand(torch.broadcast_shapes(found.shape, self.batch_shape))
