"""Distributions over grey levels k / (levels - 1) in [0, 1]."""

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Categorical, constraints
from torch.nn.functional import logsigmoid
from torch.types import _size

__all__ = ["GreyCategorical", "GreyLevels", "GreyLogistic"]


class GreyLevels(constraints.Constraint):
    """Constraint: values k / (levels - 1) for k = 0, ..., levels - 1, up to rounding error.

    Args:
        levels: number of grey levels, at least 2.

    Example:
        >>> GreyLevels(3).check(torch.tensor([0.0, 0.5, 0.7]))
        tensor([ True,  True, False])
    """

    is_discrete = True
    event_dim = 0

    def __init__(self, levels: int) -> None:
        self.levels = levels
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """Say for each entry whether it is a grey level: a bool tensor of the same shape."""
        if not value.is_floating_point():
            value = value.to(torch.get_default_dtype())
        position = value * (self.levels - 1)
        level = position.round()
        # A thousandth of a level, or a few units in the last place where that is more.
        tolerance = max(1e-3, 4 * torch.finfo(value.dtype).eps * (self.levels - 1))
        near = (position - level).abs() <= tolerance
        return near & (level >= 0) & (level <= self.levels - 1)

    def __repr__(self) -> str:
        return f"GreyLevels(levels={self.levels}): k / {self.levels - 1}"


class GreyCategorical(TorchDistribution):
    """Categorical distribution over grey levels.

    P(x = k / (levels - 1)) = softmax(logits)_k

    Args:
        logits: unnormalised log-probabilities, shape `(*batch_shape, levels)`.
        validate_args: whether arguments and values are checked.

    Example:
        >>> GreyCategorical(torch.zeros(3, 256)).mean
        tensor([0.5000, 0.5000, 0.5000])
    """

    arg_constraints = {"logits": constraints.real_vector}  # noqa: RUF012
    has_rsample = False

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits
        self.levels = logits.shape[-1]
        super().__init__(logits.shape[:-1], validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> GreyLevels:
        """The grey levels."""
        return GreyLevels(self.levels)

    @property
    def mean(self) -> Tensor:
        """Expected grey value in [0, 1], shape `batch_shape`."""
        grid = torch.arange(self.levels, device=self.logits.device, dtype=self.logits.dtype)
        # Shifted before the weighted sum, so that symmetric logits give exactly one half.
        grid = grid / (self.levels - 1) - 0.5
        return 0.5 + (self.logits.softmax(-1) * grid).sum(-1)

    def expand(
        self, batch_shape: _size, _instance: "GreyCategorical | None" = None
    ) -> "GreyCategorical":
        """Return the same distribution with its batch expanded to `batch_shape`."""
        logits = self.logits.expand((*batch_shape, self.levels))
        new = GreyCategorical(logits, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability in nats of the grey levels `value`."""
        if self._validate_args:
            self._validate_sample(value)
        index = (value * (self.levels - 1)).round().long().unsqueeze(-1)
        shape = torch.broadcast_shapes(index.shape[:-1], self.batch_shape)
        # Normalised after the gather: log_softmax would hold a second tensor of all levels.
        chosen = self.logits.expand((*shape, self.levels)).gather(-1, index.expand((*shape, 1)))
        log_norm = self.logits.logsumexp(-1)
        log_prob: Tensor = chosen.squeeze(-1) - log_norm
        return log_prob

    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Draw grey levels, shape `sample_shape + batch_shape`."""
        with torch.no_grad():
            categorical = Categorical(logits=self.logits, validate_args=False)
            index: Tensor = categorical.sample(torch.Size(sample_shape))
            return index.to(self.logits.dtype) / (self.levels - 1)


class GreyLogistic(TorchDistribution):
    r"""Discretized logistic distribution: a logistic variable rounded to the nearest grey level.

    P(k) = sigmoid((k + 1/2 - m) / t) - sigmoid((k - 1/2 - m) / t) in units of levels, with
    m = (levels - 1) loc and t = (levels - 1) scale; the first bin reaches down to -inf and the last
    one up to +inf.

    References:
        Improving Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016),
        https://arxiv.org/abs/1606.04934.
        PixelCNN++: Improving the PixelCNN with Discretized Logistic Mixture Likelihood and Other
        Modifications (Salimans et al., 2017), https://arxiv.org/abs/1701.05517. There x lies in
        [-1, 1], and a difference too small for float32 becomes a density times a width; here no
        difference is taken, so that no such approximation is needed.

    Args:
        loc: location in units of x (0 black, 1 white; any real number), shape `batch_shape`.
        log_scale: logarithm of the scale in units of x, broadcastable with `loc`.
        levels: number of grey levels, at least 2.
        validate_args: whether arguments and values are checked.

    Example:
        >>> GreyLogistic(torch.tensor(0.5), torch.tensor(-2.0), levels=3).mean
        tensor(0.5000)
    """

    arg_constraints = {"loc": constraints.real, "log_scale": constraints.real}  # noqa: RUF012
    has_rsample = False

    def __init__(
        self, loc: Tensor, log_scale: Tensor, levels: int, validate_args: bool | None = None
    ) -> None:
        self.loc, self.log_scale = torch.broadcast_tensors(loc, log_scale)
        self.levels = levels
        super().__init__(self.loc.shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> GreyLevels:
        """The grey levels."""
        return GreyLevels(self.levels)

    @property
    def mean(self) -> Tensor:
        """Expected grey value in [0, 1] of the rounded variable, shape `batch_shape`."""
        # E[k] is the sum of P(k >= j) over j = 1 ... levels - 1, and each of those is one sigmoid.
        loc, rate = self.loc * (self.levels - 1), self._rate()
        total = torch.zeros_like(loc)
        for level in range(1, self.levels):
            total = total + torch.sigmoid((loc - (level - 0.5)) * rate)
        return total / (self.levels - 1)

    def expand(self, batch_shape: _size, _instance: "GreyLogistic | None" = None) -> "GreyLogistic":
        """Return the same distribution with its batch expanded to `batch_shape`."""
        loc, log_scale = self.loc.expand(batch_shape), self.log_scale.expand(batch_shape)
        new = GreyLogistic(loc, log_scale, self.levels, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability in nats of the grey levels `value`."""
        if self._validate_args:
            self._validate_sample(value)
        level = (value * (self.levels - 1)).round()
        distance, rate = level - self.loc * (self.levels - 1), self._rate()
        # sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(a - b)): three factors in
        # (0, 1), so their logarithms add without cancellation however far out the bin lies.
        # b - a is the rate, the width of a bin in units of the scale.
        below_upper_edge = logsigmoid((distance + 0.5) * rate)
        above_lower_edge = logsigmoid((0.5 - distance) * rate)
        inside = torch.log(-torch.expm1(-rate))
        zero = torch.zeros_like(rate)
        first, last = level <= 0, level >= self.levels - 1
        log_prob = torch.where(last, zero, below_upper_edge)
        log_prob = log_prob + torch.where(first, zero, above_lower_edge)
        return log_prob + torch.where(first | last, zero, inside)

    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Draw grey levels, shape `sample_shape + batch_shape`."""
        shape = self._extended_shape(sample_shape)
        with torch.no_grad():
            uniform = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device)
            x = self.loc + self.log_scale.exp() * torch.logit(uniform)
            level: Tensor = (x * (self.levels - 1)).round().clamp(0, self.levels - 1)
            return level / (self.levels - 1)

    def _rate(self) -> Tensor:
        """Width of a bin over the scale, shape `batch_shape`."""
        return torch.exp(-self.log_scale) / (self.levels - 1)
