"""The ELBO's gradient without its score term."""

from typing import Any

from pvae.objectives.compatibility import require_reparameterized, require_repeatable_guide
from pvae.objectives.constant import log_q_of_values
from pvae.objectives.objective import Objective, PerDatum
from pvae.objectives.structure import PairStructure
from pvae.pair.particles import total

__all__ = ["STL"]


class STL(Objective):
    """The ELBO, with log q(z | x) differentiated through z alone: sticking the landing.

    The score of q, which is left out, has mean zero; without it the gradient has no variance if q
    is the posterior. Point masses (`Delta`) are functions of the draws and of parameters, and keep
    both gradients. The guide runs twice.

    References:
        Sticking the Landing: Simple, Lower-Variance Gradient Estimators for Variational Inference
        (G. Roeder, Y. Wu, D. Duvenaud, 2017), https://arxiv.org/abs/1703.09194

    Args:
        num_particles: draws per datum over which the estimate is averaged, at least 1.

    Example:
        >>> import pvae, torch
        >>> model = pvae.models.VAE(x_shape=(4,), z_dim=2, hidden=8)
        >>> guide = pvae.guides.MeanField(x_shape=(4,), z_dim=2, hidden=8)
        >>> x = torch.rand(32, 4).round()
        >>> fit = pvae.fit(model, guide, x, objective=pvae.objectives.STL(), epochs=1,
        ...                progress=False)
        >>> len(fit.history)
        1
    """

    def check_compatible(self, structure: PairStructure, batch: tuple[Any, ...]) -> None:
        """Require reparameterized sites and a guide that can run twice."""
        require_reparameterized(self, structure, "REINFORCE, or VIMCO")
        require_repeatable_guide(self, structure, batch)

    def estimate(self, structure: PairStructure, batch: tuple[Any, ...]) -> PerDatum:
        """The mean log-weight of each datum, differentiated along the path of the draws."""
        draw = structure.particles.draw(batch, self.num_particles)
        log_q = log_q_of_values(structure, batch, draw.proposal)
        for constant, own in zip(log_q, draw.log_q, strict=True):
            # The density of a point mass is no score: its gradient counts.
            constant |= {n: own[n] for n in draw.proposal.point_masses if n in own}
        path = (total(draw.log_p.local) - total(log_q.local)).mean(0)
        return PerDatum(path, path, total(draw.log_p.global_) - total(log_q.global_))
