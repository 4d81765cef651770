"""The importance-weighted bound; its signal-to-noise ratio does not vanish as K grows."""

from typing import Any

from torch import Tensor

from pvae.objectives.compatibility import (
    require_local_sites,
    require_reparameterized,
    require_repeatable_guide,
)
from pvae.objectives.constant import log_q_of_values
from pvae.objectives.iwae import importance_weighted
from pvae.objectives.objective import Objective, PerDatum
from pvae.objectives.structure import PairStructure
from pvae.pair.log_prob import own_scale
from pvae.pair.particles import Proposal, total
from pvae.pair.traces import Site

__all__ = ["DReG"]


class DReG(Objective):
    """The bound of `IWAE` with a doubly reparameterized gradient for the guide.

    The model receives IWAE's gradient, sum_k w_k dlog p(x, z_k), with weights normalized over k,
    and the guide sum_k w_k^2 dlog w_k / dz_k dz_k, without the score of q. Both are unbiased for
    the bound. The guide runs twice.

    References:
        Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives (G. Tucker, D. Lawson,
        S. Gu, C. Maddison, 2018), https://arxiv.org/abs/1810.04152

    Args:
        num_particles: K, at least 1; equal to `STL` for K = 1.

    Example:
        >>> import pvae, torch
        >>> model = pvae.models.VAE(x_shape=(4,), z_dim=2, hidden=8)
        >>> guide = pvae.guides.MeanField(x_shape=(4,), z_dim=2, hidden=8)
        >>> x = torch.rand(32, 4).round()
        >>> fit = pvae.fit(model, guide, x, objective=pvae.objectives.DReG(5), epochs=1,
        ...                progress=False)
        >>> len(fit.history)
        1
    """

    def __init__(self, num_particles: int = 5) -> None:
        super().__init__(num_particles)

    def check_compatible(self, structure: PairStructure, batch: tuple[Any, ...]) -> None:
        """Require reparameterized local sites and a guide that can run twice."""
        require_reparameterized(self, structure, "VIMCO, or RWS")
        require_local_sites(self, structure, "IWAE")
        require_repeatable_guide(self, structure, batch)

    def estimate(self, structure: PairStructure, batch: tuple[Any, ...]) -> PerDatum:
        """The bound of each datum, and the surrogate of its two gradients."""
        particles = structure.particles
        drawn = particles.propose(batch, self.num_particles)
        weights: list[Tensor] = []
        proposal = _damped(structure, drawn, weights)
        draw = particles.evaluate(batch, proposal)
        log_q = log_q_of_values(structure, batch, proposal)
        log_weights = total(draw.log_p.local) - total(log_q.local)
        weights.append(log_weights.detach().softmax(0))
        surrogate = (weights[0] * log_weights).sum(0)
        return PerDatum(importance_weighted(log_weights), surrogate, draw.global_terms)


def _damped(structure: PairStructure, drawn: Proposal, weights: list[Tensor]) -> Proposal:
    """The proposal with values whose gradients are multiplied by the weights a second time.

    If log q has the scale b, the factor that replaces its score is w (1 - b (1 - w)), which is w^2
    for b = 1. The weights are known only after the model has run at these values. Gradients between
    draws inside the guide pass through the original values.
    """

    spread = structure.particles.spread

    def once_more(name: str, value: Tensor) -> Tensor:
        if not value.requires_grad:
            return value
        copy = value.view_as(value)
        counted = _counted(structure, drawn.sites[name])
        copy.register_hook(
            lambda gradient: gradient * (1 - counted * (1 - spread(drawn, name, weights[0])))
        )
        return copy

    values = {name: once_more(name, value) for name, value in drawn.values.items()}
    return Proposal(drawn.trace, drawn.count, drawn.depth, values)


def _counted(structure: PairStructure, site: Site) -> float | Tensor:
    """The scale and mask of log q at a site."""
    scale, mask = own_scale(site, structure.plate), site["mask"]
    if isinstance(mask, Tensor):
        return scale * mask.reshape(*mask.shape, *(1,) * len(site["fn"].event_shape))
    return scale if mask is not False else 0.0
