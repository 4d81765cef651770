"""Reweighted wake-sleep: wake-sleep with several weighted draws per datum."""

from typing import Any

from pvae.objectives.compatibility import (
    require_local_sites,
    require_scores_of_parameters,
    require_separate_parameters,
)
from pvae.objectives.dreams import dream_log_prob, find_observed
from pvae.objectives.iwae import importance_weighted, normalized_sum
from pvae.objectives.objective import Objective, PerDatum
from pvae.objectives.structure import PairStructure
from pvae.pair.particles import total

__all__ = ["RWS"]


class RWS(Objective):
    """The model learns from the importance-weighted bound, the guide from weighted draws and
    dreams.

    model: sum_k w_k dlog p(x, z_k), guide: insomnia sum_k w_k dlog q(z_k | x) + (1 - insomnia)
    dlog q(z | x), (z, x) ~ p(x, z); w_k is normalized over the particles of each datum

    The reported loss is minus the bound of `IWAE`. Draws need no gradient. Pyro's
    `ReweightedWakeSleep` weights the particles of a whole batch jointly, and differentiates through
    the draws of one layer into the next; the two agree for one datum and one layer.

    References:
        Reweighted Wake-Sleep (J. Bornschein, Y. Bengio, 2015), https://arxiv.org/abs/1406.2751.
        Revisiting Reweighted Wake-Sleep for Models with Stochastic Control Flow (T. A. Le et al.,
        2019), https://arxiv.org/abs/1805.10469

    Args:
        num_particles: K, at least 2.
        insomnia: weight of the guide's wake phase, from 0 (it learns from dreams only) to 1 (from
            data only).

    Raises:
        ValueError: if insomnia is out of its range.

    Example:
        >>> import pvae, torch
        >>> model = pvae.models.HelmholtzMachine(x_shape=(4,), dims=(3,), latent="bernoulli")
        >>> guide = pvae.guides.BottomUp(x_shape=(4,), dims=(3,), latent="bernoulli")
        >>> x = torch.rand(32, 4).round()
        >>> objective = pvae.objectives.RWS(5, insomnia=0.5)
        >>> fit = pvae.fit(model, guide, x, objective=objective, epochs=1, progress=False)
        >>> len(fit.history)
        1
    """

    min_particles = 2

    def __init__(self, num_particles: int = 5, *, insomnia: float = 1.0) -> None:
        if not 0 <= insomnia <= 1:
            raise ValueError(f"insomnia is {insomnia}: give a number from 0 to 1")
        super().__init__(num_particles)
        self.insomnia = insomnia
        self._observed: dict[str, int] = {}

    def check_compatible(self, structure: PairStructure, batch: tuple[Any, ...]) -> None:
        """Require local sites, separate parameters and, for dreams, a model to simulate from."""
        require_local_sites(self, structure, "VIMCO, or IWAE where draws have a gradient")
        require_separate_parameters(
            self, structure, batch, "VIMCO, or IWAE where draws have a gradient"
        )
        require_scores_of_parameters(self, structure, batch, "IWAE, or DReG")
        if self.insomnia < 1:
            self._observed = find_observed(type(self).__name__, structure, batch)

    def estimate(self, structure: PairStructure, batch: tuple[Any, ...]) -> PerDatum:
        """The bound of each datum, and the losses of model and guide."""
        draw = structure.particles.draw(batch, self.num_particles, detached=True)
        log_p, log_q = total(draw.log_p.local), total(draw.log_q.local)
        log_weights = (log_p - log_q).detach()
        surrogate = normalized_sum(log_weights, log_p + self.insomnia * log_q)
        if self.insomnia < 1:
            surrogate = surrogate + (1 - self.insomnia) * dream_log_prob(
                structure, batch, self._observed
            )
        bound = importance_weighted(log_weights)
        return PerDatum(bound, surrogate, total(draw.log_p.global_))
