"""Continuous relaxations of discrete layers during training."""

from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from torch import Tensor

from pvae._validation import positive
from pvae.objectives.compatibility import require_reparameterized
from pvae.objectives.iwae import importance_weighted
from pvae.objectives.objective import Objective, PerDatum
from pvae.objectives.structure import PairStructure

__all__ = ["Concrete"]

Program = Callable[..., object]


class Concrete(Objective):
    """The bound of `IWAE` on a relaxed pair.

    Each latent Bernoulli or one-hot categorical site of the user's programs is replaced by Pyro's
    relaxed distribution, whose draws lie between 0 and 1 and are reparameterized; both densities
    are the relaxed ones. The objective is a bound on the relaxed model's evidence, which is biased
    for the discrete pair; lower temperatures reduce the bias. Evaluation uses the discrete pair.

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
    """Replaces discrete distributions by relaxed ones at latent sites."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def _pyro_sample(self, msg: Message[Any, Any]) -> None:
        if not msg["is_observed"]:
            msg["fn"] = self._relaxed(msg["fn"])

    def _relaxed(self, fn: Any) -> Any:
        if isinstance(fn, dist.Independent):
            return self._relaxed(fn.base_dist).to_event(fn.reinterpreted_batch_ndims)
        logits = getattr(fn, "logits", None)
        if not isinstance(logits, Tensor):
            return fn
        temperature = logits.new_tensor(self.temperature)
        if isinstance(fn, dist.Bernoulli):
            return dist.RelaxedBernoulli(temperature, logits=logits)
        if isinstance(fn, dist.OneHotCategorical):
            return dist.RelaxedOneHotCategorical(temperature, logits=logits)
        return fn


def _relaxed(program: Program, temperature: float) -> Program:
    def run(*args: object) -> object:
        with _Relax(temperature):
            return program(*args)

    return run
