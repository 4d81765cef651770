"""Continuous relaxations of discrete layers during training."""

import math
from collections.abc import Callable
from typing import Any, ClassVar, cast

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from torch import Tensor
from torch.nn.functional import softplus

from pvae._validation import positive
from pvae.objectives.compatibility import require_reparameterized
from pvae.objectives.iwae import importance_weighted
from pvae.objectives.objective import Objective, PerDatum
from pvae.objectives.structure import PairStructure
from pvae.pair.distributions import base_distribution

__all__ = ["Concrete"]

Program = Callable[..., object]


class Concrete(Objective):
    """The bound of `IWAE` on a relaxed pair.

    Each latent Bernoulli or one-hot categorical site of the user's programs is replaced by its
    relaxation, whose draws lie between 0 and 1 and are reparameterized; both densities are the
    relaxed ones. Draws are kept as logits or logarithms, at which both densities are evaluated, so
    that a draw which rounds to 0 or 1 keeps its density. The objective is a bound on the relaxed
    model's evidence, which is biased for the discrete pair; lower temperatures reduce the bias.
    Evaluation uses the discrete pair.

    References:
        The Concrete Distribution (C. J. Maddison, A. Mnih, Y. W. Teh, 2017),
        https://arxiv.org/abs/1611.00712.
        Categorical Reparameterization with Gumbel-Softmax (E. Jang, S. Gu, B. Poole, 2017),
        https://arxiv.org/abs/1611.01144

    Args:
        num_particles: K, at least 1.
        temperature: temperature of the guide's sites, above 0; Maddison et al. use 2/3 for binary
            sites.
        prior_temperature: temperature of the model's sites, above 0; they use 1/2.

    Raises:
        ValueError: if a temperature is out of its range.

    Example:
        >>> import pvae, torch
        >>> model = pvae.models.HelmholtzMachine(x_shape=(4,), dims=(3,), latent="bernoulli")
        >>> guide = pvae.guides.BottomUp(x_shape=(4,), dims=(3,), latent="bernoulli")
        >>> x = torch.rand(32, 4).round()
        >>> fit = pvae.fit(model, guide, x, objective=pvae.objectives.Concrete(5), epochs=1,
        ...                progress=False)
        >>> len(fit.history)
        1
    """

    def __init__(
        self,
        num_particles: int = 1,
        *,
        temperature: float = 2 / 3,
        prior_temperature: float = 1 / 2,
    ) -> None:
        positive(temperature=temperature, prior_temperature=prior_temperature)
        super().__init__(num_particles)
        self.temperature, self.prior_temperature = temperature, prior_temperature

    def programs(self, model: Program, guide: Program) -> tuple[Program, Program]:
        """The pair with its discrete latent sites relaxed."""
        return _relaxed(model, self.prior_temperature), _relaxed(guide, self.temperature)

    def check_compatible(self, structure: PairStructure, batch: tuple[Any, ...]) -> None:
        """Require that all draws are reparameterized after the relaxation."""
        require_reparameterized(
            self, structure, "OneHotCategorical instead of Categorical, or VIMCO"
        )

    def estimate(self, structure: PairStructure, batch: tuple[Any, ...]) -> PerDatum:
        """The bound of each datum, which is its own surrogate."""
        draw = structure.particles.draw(batch, self.num_particles)
        bound = importance_weighted(draw.log_weights)
        return PerDatum(bound, bound, draw.global_terms)


class _Relax(Messenger):
    """Relaxes discrete latent sites.

    The trace around this handler holds logits or logarithms; the program receives their values
    between 0 and 1.
    """

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def _pyro_sample(self, msg: Message[Any, Any]) -> None:
        if not msg["is_observed"]:
            msg["fn"] = self._relaxed(msg["fn"])

    def _pyro_post_sample(self, msg: Message[Any, Any]) -> None:
        fn = base_distribution(msg["fn"])
        if isinstance(fn, _RelaxedInLogits | _RelaxedInLogarithms):
            msg["value"] = fn.relaxed(cast(Tensor, msg["value"]))

    def _relaxed(self, fn: Any) -> Any:
        if isinstance(fn, dist.Independent):
            return self._relaxed(fn.base_dist).to_event(fn.reinterpreted_batch_ndims)
        if isinstance(fn, dist.MaskedDistribution):
            return self._relaxed(fn.base_dist).mask(fn._mask)
        if isinstance(fn, dist.Bernoulli):
            return _RelaxedInLogits(fn.logits, self.temperature)
        if isinstance(fn, dist.OneHotCategorical):
            return _RelaxedInLogarithms(fn.logits, self.temperature)
        return fn


class _RelaxedInLogits(dist.TorchDistribution):
    """The logit of a relaxed Bernoulli variable: logistic noise, shifted and scaled.

    Args:
        logits: of the Bernoulli variable.
        temperature: above 0.
    """

    arg_constraints: ClassVar = {"logits": constraints.real}
    support = constraints.real
    has_rsample = True

    def __init__(self, logits: Tensor, temperature: float) -> None:
        self.logits, self.temperature = logits, temperature
        super().__init__(logits.shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "_RelaxedInLogits":
        return _RelaxedInLogits(self.logits.expand(batch_shape), self.temperature)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        noise = _uniform(self.logits, (*sample_shape, *self.logits.shape))
        return (self.logits + noise.log() - (-noise).log1p()) / self.temperature

    def log_prob(self, value: Tensor) -> Tensor:
        apart = self.logits - self.temperature * value
        return math.log(self.temperature) + apart - 2 * softplus(apart)

    def relaxed(self, value: Tensor) -> Tensor:
        """The variable, in [0, 1]."""
        return value.sigmoid()


class _RelaxedInLogarithms(dist.TorchDistribution):
    """The logarithm of a relaxed one-hot variable.

    Args:
        logits: normalized, shape (*batch_shape, classes).
        temperature: above 0.
    """

    arg_constraints: ClassVar = {"logits": constraints.real_vector}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, logits: Tensor, temperature: float) -> None:
        self.logits, self.temperature = logits, temperature
        super().__init__(logits.shape[:-1], logits.shape[-1:], validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "_RelaxedInLogarithms":
        shape = (*batch_shape, *self.event_shape)
        return _RelaxedInLogarithms(self.logits.expand(shape), self.temperature)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        noise = _uniform(self.logits, (*sample_shape, *self.logits.shape))
        return ((self.logits - (-noise.log()).log()) / self.temperature).log_softmax(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        classes = self.event_shape[0]
        factor = math.lgamma(classes) + (classes - 1) * math.log(self.temperature)
        return factor + (self.logits - self.temperature * value).log_softmax(-1).sum(-1)

    def relaxed(self, value: Tensor) -> Tensor:
        """The variable, on the simplex."""
        return value.exp()


def _uniform(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Draws between 0 and 1, both excluded."""
    tiny = torch.finfo(like.dtype).eps
    return torch.rand(shape, dtype=like.dtype, device=like.device).clamp(tiny, 1 - tiny)


def _relaxed(program: Program, temperature: float) -> Program:
    def run(*args: object) -> object:
        with _Relax(temperature):
            return program(*args)

    return run
