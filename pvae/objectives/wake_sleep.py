"""Wake-sleep: the model learns from data, the guide from the model's dreams."""

from typing import Any

from pvae.objectives.compatibility import (
    require_local_sites,
    require_scores_of_parameters,
    require_separate_parameters,
)
from pvae.objectives.dreams import dream_log_prob, find_observed
from pvae.objectives.objective import Objective, PerDatum
from pvae.objectives.structure import PairStructure
from pvae.pair.particles import total

__all__ = ["WakeSleep"]


class WakeSleep(Objective):
    """Two losses: that of the model in the wake phase, and that of the guide in the sleep phase.

    wake: -log p(x, z), x from the data, z ~ q(z | x)
    sleep: -log q(z | x), (z, x) ~ p(x, z)

    The reported loss is minus the ELBO; the sleep phase follows the gradient of another quantity,
    KL(p(z | x) || q(z | x)) on data from the model. Draws need no gradient.

    References:
        The "wake-sleep" algorithm for unsupervised neural networks (G. E. Hinton, P. Dayan,
        B. J. Frey, R. M. Neal, 1995), https://doi.org/10.1126/science.7761831

    Args:
        num_particles: draws per datum in the wake phase, at least 1. There is one dream per row.

    Example:
        >>> import pvae, torch
        >>> model = pvae.models.HelmholtzMachine(x_shape=(4,), dims=(3,), latent="bernoulli")
        >>> guide = pvae.guides.BottomUp(x_shape=(4,), dims=(3,), latent="bernoulli")
        >>> x = torch.rand(32, 4).round()
        >>> fit = pvae.fit(model, guide, x, objective=pvae.objectives.WakeSleep(), epochs=1,
        ...                progress=False)
        >>> len(fit.history)
        1
    """

    def __init__(self, num_particles: int = 1) -> None:
        super().__init__(num_particles)
        self._observed: dict[str, int] = {}

    def check_compatible(self, structure: PairStructure, batch: tuple[Any, ...]) -> None:
        """Require local sites, separate parameters and a model that can be simulated."""
        require_local_sites(self, structure, "ELBO, or Trace_ELBO")
        nearest = "ELBO, or REINFORCE where draws have no gradient"
        require_separate_parameters(self, structure, batch, nearest)
        require_scores_of_parameters(self, structure, batch, "ELBO")
        self._observed = find_observed(type(self).__name__, structure, batch)

    def estimate(self, structure: PairStructure, batch: tuple[Any, ...]) -> PerDatum:
        """The mean log-weight of each datum, and the losses of both phases."""
        draw = structure.particles.draw(batch, self.num_particles, detached=True)
        wake = total(draw.log_p.local).mean(0)
        sleep = dream_log_prob(structure, batch, self._observed)
        return PerDatum(draw.log_weights.mean(0), wake + sleep, total(draw.log_p.global_))
