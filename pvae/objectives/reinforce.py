"""The ELBO for draws without a gradient: the score function with baselines."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pvae.objectives.baselines import MovingAverage, NetworkBaseline, leave_one_out
from pvae.objectives.objective import Objective, PerDatum
from pvae.objectives.structure import PairStructure
from pvae.pair.registration import register

__all__ = ["REINFORCE"]

_BASELINES = ("none", "leave_one_out", "moving_average", "network")


class REINFORCE(Objective):
    """The ELBO with a score-function gradient for the guide.

    The score of each datum's draws is weighted by its log-weight minus a baseline that does not
    depend on the draw. Reparameterized sites are differentiated through.

    References:
        Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning
        (R. J. Williams, 1992), https://doi.org/10.1007/BF00992696.
        Neural Variational Inference and Learning in Belief Networks (A. Mnih, K. Gregor, 2014),
        https://arxiv.org/abs/1402.0030

    Args:
        num_particles: draws per datum over which the estimate is averaged, at least 1.
        baseline: "none"; "leave_one_out", the mean of the datum's other particles;
            "moving_average" over the last batches; "network", that plus a network of x; or a module
            from the programs' arguments to shape (rows,), trained on its squared error (default:
            "leave_one_out" for two or more particles, and "moving_average" for one).
        x_shape: shape of one datum, for "network".

    Raises:
        ValueError: if the baseline is unknown, or lacks the particles or `x_shape` that it needs.

    Example:
        >>> import pvae, torch
        >>> model = pvae.models.HelmholtzMachine(x_shape=(4,), dims=(3,), latent="bernoulli")
        >>> guide = pvae.guides.BottomUp(x_shape=(4,), dims=(3,), latent="bernoulli")
        >>> x = torch.rand(32, 4).round()
        >>> objective = pvae.objectives.REINFORCE(baseline="moving_average")
        >>> fit = pvae.fit(model, guide, x, objective=objective, epochs=1, progress=False)
        >>> len(fit.history)
        1
    """

    def __init__(
        self,
        num_particles: int = 1,
        *,
        baseline: str | nn.Module | None = None,
        x_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__(num_particles)
        if baseline is None:
            baseline = "leave_one_out" if num_particles > 1 else "moving_average"
        self.baseline = baseline if isinstance(baseline, str) else type(baseline).__name__
        self._module: nn.Module | None = None
        if isinstance(baseline, nn.Module):
            self._module = baseline
        elif baseline not in _BASELINES:
            raise ValueError(
                f"unknown baseline {baseline!r}: give one of {', '.join(_BASELINES)}, or a module "
                "of "
                "your own"
            )
        elif baseline == "moving_average":
            self._module = MovingAverage()
        elif baseline == "network":
            if x_shape is None:
                raise ValueError('baseline "network" is built for the data: give x_shape=')
            self._module = NetworkBaseline(x_shape)
        elif baseline == "leave_one_out" and num_particles < 2:
            raise ValueError(
                'baseline "leave_one_out" is the mean of the other particles: give '
                'num_particles=2 or more, or baseline="moving_average"'
            )

    def networks(self) -> dict[str, nn.Module]:
        """The baseline if it is a module."""
        return {} if self._module is None else {"objective.baseline": self._module}

    def estimate(self, structure: PairStructure, batch: tuple[Any, ...]) -> PerDatum:
        """The mean log-weight of each datum, and its score weighted by the learning signal."""
        draw = structure.particles.draw(batch, self.num_particles)
        signal = draw.log_weights.detach()
        expected, error = self._expected(signal, batch)
        surrogate = draw.log_weights + (signal - expected) * draw.score - error
        return PerDatum(draw.log_weights.mean(0), surrogate.mean(0), draw.global_terms)

    def _expected(self, signal: Tensor, batch: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
        """The baseline of each learning signal, and its training loss."""
        if self.baseline == "leave_one_out":
            return leave_one_out(signal), signal.new_zeros(())
        if self._module is None:
            return signal.new_zeros(()), signal.new_zeros(())
        register("objective.baseline", self._module)
        expected = self._module(*batch)
        if expected.shape not in ((), signal.shape[1:]):
            raise ValueError(
                f"the baseline returned shape {tuple(expected.shape)} for {signal.shape[1]} data: "
                "return one number for each, shape (rows,)"
            )
        error = (signal - expected) ** 2
        if isinstance(self._module, MovingAverage | NetworkBaseline) and torch.is_grad_enabled():
            self._module.see(signal)
        return expected.detach(), error
