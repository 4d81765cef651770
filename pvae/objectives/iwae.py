"""The importance-weighted bound."""

import math
from typing import Any

import torch
from torch import Tensor

from pvae.objectives.compatibility import require_reparameterized
from pvae.objectives.objective import Objective, PerDatum
from pvae.objectives.structure import PairStructure

__all__ = ["IWAE", "importance_weighted", "normalized_sum"]


class IWAE(Objective):
    """The importance-weighted bound, which approaches log p(x) as the number K of particles grows.

    L_K = E log 1/K sum_k w_k, w_k = p(x, z_k) / q(z_k | x), z_k ~ q(z | x) reparameterized

    References:
        Importance Weighted Autoencoders (Y. Burda, R. Grosse, R. Salakhutdinov, 2015),
        https://arxiv.org/abs/1509.00519

    Args:
        num_particles: K, at least 1; equal to the ELBO for K = 1.

    Example:
        >>> import pvae, torch
        >>> model = pvae.models.VAE(x_shape=(4,), z_dim=2, hidden=8)
        >>> guide = pvae.guides.MeanField(x_shape=(4,), z_dim=2, hidden=8)
        >>> x = torch.rand(32, 4).round()
        >>> pvae.objectives.IWAE(num_particles=5).per_datum(model, guide, x).shape  # nats
        torch.Size([32])
    """

    def __init__(self, num_particles: int = 5) -> None:
        super().__init__(num_particles)

    def check_compatible(self, structure: PairStructure, batch: tuple[Any, ...]) -> None:
        """Require reparameterized sites."""
        require_reparameterized(self, structure, "VIMCO, or RWS")

    def estimate(self, structure: PairStructure, batch: tuple[Any, ...]) -> PerDatum:
        """The bound of each datum, which is its own surrogate."""
        draw = structure.particles.draw(batch, self.num_particles)
        bound = importance_weighted(draw.log_weights)
        return PerDatum(bound, bound, draw.global_terms)


def importance_weighted(log_weights: Tensor) -> Tensor:
    """log 1/K sum_k w_k, shape (rows,), of log-weights of shape (particles, rows)."""
    return log_weights.logsumexp(0) - math.log(len(log_weights))


def normalized_sum(log_weights: Tensor, values: Tensor) -> Tensor:
    """sum_k w_k v_k with weights normalized over the particles, shape (rows,).

    Args:
        log_weights: shape (particles, rows), in nats, which no gradient passes.
        values: likewise; minus infinity counts as 0 where the weight is 0.
    """
    weights = log_weights.detach().softmax(0)
    return torch.where(weights > 0, weights * values, 0.0).sum(0)
