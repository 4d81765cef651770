"""A pair under examination: traces of one batch, and what else checks ask for."""

from collections.abc import Callable
from typing import Any, cast

from pyro import poutine
from pyro.infer import ELBO
from torch import Tensor

from pvae.pair.independence import moved_by_neighbours
from pvae.pair.locations import Place, Places
from pvae.pair.log_prob import DataPlate, data_plate
from pvae.pair.pair import Belongings
from pvae.pair.preserve import preserved
from pvae.pair.traces import Site, paired_traces, sample_sites

__all__ = ["Subject"]


class Subject:
    """The traces of a pair on one batch, with the places of its statements.

    Args:
        belongings: the pair's networks and parameters; discovered already.
        batch: the arguments of both programs, each of shape (rows, ...).
        objective: the bound that it is trained with.

    Attributes:
        model: the trace of the model, replayed against the guide's.
        guide: the trace of the guide.
        plate: the data plate, or None.
        rows: the number of data in the batch.
        params: by program, the parameters that it meets, by name.
    """

    def __init__(self, belongings: Belongings, batch: tuple[Tensor, ...], objective: ELBO) -> None:
        self.belongings, self.batch, self.objective = belongings, batch, objective
        self.rows = len(batch[0])
        self.places = {"guide": Places(), "model": Places()}  # in the order in which they run
        self.model, self.guide = self._traced(batch)
        # The model meets the guide's values, so that both know the same ones.
        self.plate: DataPlate | None = data_plate(self.traces, batch)
        with preserved(), poutine.trace(param_only=True) as in_guide:
            belongings.guide(*batch)
        with preserved(), poutine.trace(param_only=True) as in_model:
            belongings.model(*batch)
        self.params = {"guide": _params(in_guide.trace), "model": _params(in_model.trace)}

    @property
    def programs(self) -> tuple[tuple[str, poutine.Trace], ...]:
        """The traces, each under its program's name."""
        return (("guide", self.guide), ("model", self.model))

    def sites(self, role: str) -> dict[str, Site]:
        """The sample sites of a program by name."""
        return dict(sample_sites(self.guide if role == "guide" else self.model))

    def place(self, role: str, site: str) -> Place | None:
        """Where a program samples a site."""
        return self.places[role].sites.get(site)

    def traces(self, batch: tuple[Tensor, ...]) -> tuple[poutine.Trace, poutine.Trace]:
        """Traces of model and guide on another batch; generators are left as they were."""
        with preserved():
            return paired_traces(self.belongings.model, self.belongings.guide, batch)

    def moved_by_neighbours(self) -> list[tuple[str, str]]:
        """Programs and sites whose terms at a datum change when another datum does."""
        belongings = self.belongings
        return moved_by_neighbours(belongings.model, belongings.guide, self.plate, self.batch)

    def _traced(self, batch: tuple[Tensor, ...]) -> tuple[poutine.Trace, poutine.Trace]:
        def noted(role: str) -> Callable[..., object]:
            program = getattr(self.belongings, role)

            def run(*args: Any) -> object:
                with self.places[role]:
                    return program(*args)

            return run

        with preserved():
            return paired_traces(noted("model"), noted("guide"), batch)


def _params(trace: poutine.Trace) -> dict[str, Tensor]:
    return {
        name: cast(Any, site["value"]).unconstrained()
        for name, site in trace.nodes.items()
        if site["type"] == "param"
    }
