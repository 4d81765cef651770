"""The continuous Bernoulli distribution in its natural parameter, exact at every logit."""

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.types import _size

__all__ = ["LogitContinuousBernoulli"]

# Below these, series replace expressions that are 0 / 0 at logits = 0; what the series leave out is
# under 1e-9, and what the expressions lose there to rounding stays near the precision of float32.
_SMALL = 0.3
_SMALL_QUANTILE = 0.03


class LogitContinuousBernoulli(TorchDistribution):
    """Continuous Bernoulli, p(x) = a exp(a x) / (exp(a) - 1) on [0, 1], by its logits a.

    `torch.distributions.ContinuousBernoulli` computes its normaliser from probabilities that are
    clamped away from 0 and 1 in float32, and is not normalized beyond logits of about 16; this
    class computes everything from the logits.

    References:
        The continuous Bernoulli: fixing a pervasive error in variational autoencoders
        (Loaiza-Ganem and Cunningham, 2019), https://arxiv.org/abs/1907.06845.

    Args:
        logits: natural parameter a, any real number, shape `batch_shape`.
        validate_args: whether arguments and values are checked.

    Example:
        >>> LogitContinuousBernoulli(torch.tensor(100.0)).mean
        tensor(0.9900)
    """

    arg_constraints = {"logits": constraints.real}  # noqa: RUF012
    support = constraints.unit_interval
    has_rsample = True

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """Expected value in [0, 1], shape `batch_shape`."""
        a = self.logits
        small, t = self._magnitude(_SMALL)
        square = a * a
        series = a * (1 / 12 - square * (1 / 720 - square / 30240))
        # Of the distance from the end that is favoured: 1/t - 1/(exp(t) - 1).
        closed = torch.sign(a) * (0.5 - (1 / t - torch.exp(-t) / -torch.expm1(-t)))
        return 0.5 + torch.where(small, series, closed)

    def expand(
        self, batch_shape: _size, _instance: "LogitContinuousBernoulli | None" = None
    ) -> "LogitContinuousBernoulli":
        """Return the same distribution with its batch expanded to `batch_shape`."""
        new = LogitContinuousBernoulli(self.logits.expand(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density in nats of `value` in [0, 1]."""
        if self._validate_args:
            self._validate_sample(value)
        a = self.logits
        small, t = self._magnitude(_SMALL)
        square = a * a
        log_norm = square * (1 / 24 - square * (1 / 2880 - square / 181440))
        series = a * (value - 0.5) - log_norm
        # Measured from the end that is favoured: at large logits the terms in a x and in the
        # normaliser would otherwise cancel.
        from_end = torch.where(a > 0, 1 - value, value)
        closed = torch.log(t) - torch.log(-torch.expm1(-t)) - t * from_end
        return torch.where(small, series, closed)

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        """Draw values in [0, 1] through the inverse CDF, shape `sample_shape + batch_shape`."""
        a = self.logits
        uniform = torch.rand(self._extended_shape(sample_shape), dtype=a.dtype, device=a.device)
        eps = torch.finfo(a.dtype).eps
        u = uniform.clamp(eps, 1 - eps)
        small, t = self._magnitude(_SMALL_QUANTILE)
        # log(1 + u (exp(a) - 1)) / a is the cumulant generating function of a Bernoulli over a.
        spread = u * (1 - u)
        series = u + a * spread * (1 / 2 + a * ((1 - 2 * u) / 6 + a * (1 - 6 * spread) / 24))
        from_end = -torch.log1p(torch.where(a > 0, 1 - u, u) * torch.expm1(-t)) / t
        closed = torch.where(a > 0, 1 - from_end, from_end)
        return torch.where(small, series, closed).clamp(0, 1)

    def _magnitude(self, threshold: float) -> tuple[Tensor, Tensor]:
        """Where |logits| is below the threshold, and |logits| with 1 put there.

        The 1 keeps the gradient of the branch that is not taken finite.
        """
        t = self.logits.abs()
        small = t < threshold
        return small, torch.where(small, torch.ones_like(t), t)
