"""Monte Carlo EM: the model is trained at posterior draws of a Markov chain for each datum."""

from typing import Any

import torch
from torch import Tensor, nn

from pvae._validation import at_least
from pvae.objectives.compatibility import require_local_sites, require_reparameterized
from pvae.objectives.objective import Objective, PerDatum
from pvae.objectives.structure import PairStructure
from pvae.pair.densities import Densities
from pvae.pair.hmc import evaluate, transition

__all__ = ["MonteCarloEM"]

_ACCEPTED = 0.9  # the acceptance rate of the paper's comparison


class MonteCarloEM(Objective):
    """Hamiltonian Monte Carlo for z in the E step, and a gradient of log p(x, z) in the M step.

    Each row of the training data has a chain, which is continued at every visit; it starts at a
    draw from the prior. The guide is neither used nor trained. The reported loss is -log p(x, z) at
    the chains' states, in nats per datum, which is no bound: evaluate by `pvae.ais` with
    `start="prior"`, or `pvae.evaluation.marginal_by_hmc`.

    References:
        A Monte Carlo Implementation of the EM Algorithm (Wei and Tanner, 1990),
        https://doi.org/10.1080/01621459.1990.10474930.
        Auto-Encoding Variational Bayes (Kingma and Welling, 2013; appendix E),
        https://arxiv.org/abs/1312.6114, where it is compared. There five gradient steps follow each
        draw; here it is one.

    Args:
        num_transitions: transitions of each chain at a visit, at least 1.
        num_leapfrog_steps: of each transition, at least 1.
        step_size: at the start, positive; each chain adapts its own to accept 90 %.

    Raises:
        ValueError: if an option is out of range.

    Example:
        >>> import pvae, torch
        >>> model = pvae.models.PPCA(x_shape=(4,), z_dim=1)
        >>> guide = pvae.guides.MeanField(x_shape=(4,), z_dim=1)
        >>> objective = pvae.objectives.MonteCarloEM()
        >>> fit = pvae.fit(model, guide, torch.randn(64, 4), objective=objective, epochs=1,
        ...                progress=False)
        >>> len(fit.history)
        1
    """

    trains_guide = False

    def __init__(
        self, *, num_transitions: int = 1, num_leapfrog_steps: int = 10, step_size: float = 0.1
    ) -> None:
        super().__init__(1)
        at_least(1, num_transitions=num_transitions, num_leapfrog_steps=num_leapfrog_steps)
        if not step_size > 0:
            raise ValueError(f"step_size is {step_size}: give a positive number")
        self.num_transitions, self.num_leapfrog_steps = num_transitions, num_leapfrog_steps
        self.step_size = step_size
        self._chains = _Chains()

    def networks(self) -> dict[str, nn.Module]:
        """The states of the chains, which a run saves."""
        return {"objective.chains": self._chains}

    def check_compatible(self, structure: PairStructure, batch: tuple[Any, ...]) -> None:
        """Require continuous local sites, and make room for the chains."""
        require_local_sites(self, structure, "ELBO, or Trace_ELBO")
        require_reparameterized(self, structure, "RWS, or REINFORCE")
        if self.rows is not None:
            densities = Densities(structure.model, None, batch, 1, structure.plate)
            self._chains.make(self.rows, densities.draws, self.step_size)

    def estimate(
        self, structure: PairStructure, batch: tuple[Any, ...], index: Tensor | None = None
    ) -> PerDatum:
        """log p(x, z) of each datum at the next state of its chain.

        Args:
            structure: model, guide and their particles.
            batch: the arguments of the programs, each of shape (rows, ...).
            index: the rows' numbers in the training data; None for new chains.
        """
        with torch.no_grad():
            densities = Densities(structure.model, None, batch, 1, structure.plate)
            z, step = densities.draws, None
            if index is not None and self._chains.seen is not None:
                z, step = self._chains.at(index, z)
            if step is None:
                step = torch.full((len(batch[0]),), self.step_size, device=batch[0].device)
            log_joint = lambda z: densities(z)[1]  # noqa: E731
            point = evaluate(log_joint, z)
            for _ in range(self.num_transitions):
                point, accepted = transition(log_joint, point, step, self.num_leapfrog_steps)
                step = step * (0.1 * (accepted.to(step) - _ACCEPTED)).exp()
            if index is not None and self._chains.seen is not None:
                self._chains.keep(index, point.z, step)
        value = densities(point.z)[1].to(batch[0].dtype)
        return PerDatum(value, value, value.new_zeros(()))


class _Chains(nn.Module):
    """The unconstrained states and step sizes of all chains."""

    seen: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", None)

    def make(self, rows: int, like: dict[str, Tensor], step_size: float) -> None:
        for name, value in like.items():
            self.register_buffer(f"z_{name}", value.new_zeros(rows, value.shape[1]))
            device = value.device
        self.register_buffer("step_size", torch.full((rows,), step_size, device=device))
        self.register_buffer("seen", torch.zeros(rows, dtype=torch.bool, device=device))

    def at(self, index: Tensor, fresh: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """The states of rows, fresh draws at their first visit, and their step sizes."""
        assert self.seen is not None
        seen = self.seen[index][:, None]
        known = {
            name: torch.where(seen, self.get_buffer(f"z_{name}")[index], value)
            for name, value in fresh.items()
        }
        return known, self.get_buffer("step_size")[index]

    def keep(self, index: Tensor, z: dict[str, Tensor], step_size: Tensor) -> None:
        assert self.seen is not None
        for name, value in z.items():
            self.get_buffer(f"z_{name}")[index] = value
        self.get_buffer("step_size")[index] = step_size
        self.seen[index] = True
