"""The importance-weighted bound for draws without a gradient."""

import math
from typing import Any

import torch
from torch import Tensor

from pvae.objectives.iwae import importance_weighted
from pvae.objectives.objective import Objective, PerDatum
from pvae.objectives.structure import PairStructure

__all__ = ["VIMCO"]


class VIMCO(Objective):
    """The bound of `IWAE` with a score-function gradient and a baseline for each particle.

    The learning signal of particle k is L - L_k: L_k is the bound with the k-th weight replaced by
    the geometric mean of the others, so that it does not depend on z_k. Reparameterized sites are
    differentiated through, as in `IWAE`.

    References:
        Variational inference for Monte Carlo objectives (A. Mnih, D. J. Rezende, 2016),
        https://arxiv.org/abs/1602.06725

    Args:
        num_particles: K, at least 2.

    Example:
        >>> import pvae, torch
        >>> model = pvae.models.HelmholtzMachine(x_shape=(4,), dims=(3,), latent="bernoulli")
        >>> guide = pvae.guides.BottomUp(x_shape=(4,), dims=(3,), latent="bernoulli")
        >>> x = torch.rand(32, 4).round()
        >>> fit = pvae.fit(model, guide, x, objective=pvae.objectives.VIMCO(5), epochs=1,
        ...                progress=False)
        >>> len(fit.history)
        1
    """

    min_particles = 2

    def __init__(self, num_particles: int = 5) -> None:
        super().__init__(num_particles)

    def estimate(self, structure: PairStructure, batch: tuple[Any, ...]) -> PerDatum:
        """The bound of each datum, and the scores weighted by the learning signals."""
        draw = structure.particles.draw(batch, self.num_particles)
        bound = importance_weighted(draw.log_weights)
        signal = bound.detach() - without_each(draw.log_weights.detach())
        return PerDatum(bound, bound + (signal * draw.score).sum(0), draw.global_terms)


def without_each(log_weights: Tensor) -> Tensor:
    """The bound with each weight in turn replaced by the geometric mean of the others.

    Args:
        log_weights: shape (particles, rows), in nats; at least 2 particles.

    Returns:
        Shape (particles, rows).
    """
    count = len(log_weights)
    same = torch.eye(count, dtype=torch.bool, device=log_weights.device)[..., None]
    # Not the sum without one, which is undefined where a weight is 0.
    others = torch.where(same, 0.0, log_weights).sum(1) / (count - 1)
    replaced = torch.where(same, others, log_weights).logsumexp(1) - math.log(count)
    # If all others are 0, any number that does not depend on z_k serves as well.
    return replaced.where(replaced > -torch.inf, 0.0)
