"""One batch of a pair under inspection: its traces, data plate and the lines of its statements."""

from collections.abc import Callable
from typing import Any

from pyro import poutine
from pyro.infer import ELBO
from pyro.poutine.util import site_is_factor
from torch import Tensor

from pvae.checking.report import SiteRow
from pvae.pair.distributions import distribution_name
from pvae.pair.independence import dependent_sites
from pvae.pair.locations import Location, Locations
from pvae.pair.pair import Pair
from pvae.pair.plate import DataPlate, find_data_plate
from pvae.pair.preserve import preserve_generators
from pvae.pair.traces import Site, paired_traces, sample_sites

__all__ = ["Inspection", "describe_sites"]


class Inspection:
    """The traces of a pair on one batch, with the lines of its statements.

    Args:
        pair: an initialized pair.
        batch: the arguments of both programs, each of shape (rows, ...).
        objective: the bound that it is trained with.

    Attributes:
        model: the trace of the model, replayed against the guide's.
        guide: the trace of the guide.
        plate: the data plate, or None.
        rows: the number of rows of the batch.
        params: keyed by program, the (unconstrained) parameters that it uses, keyed by name.
        sized: whether the guide has a row of parameters for each datum of the batch; known after
            `one_batch_size_only`.
        dependent: program and site of terms that depend on other rows of the batch; None until
            `find_dependent_sites` has run.
    """

    def __init__(self, pair: Pair, batch: tuple[Tensor, ...], objective: ELBO) -> None:
        self.pair, self.batch, self.objective = pair, batch, objective
        self.rows = len(batch[0])
        self.locations = {
            "guide": Locations(),
            "model": Locations(),
        }  # in the order in which they run
        self.model, self.guide = self._traced(batch)
        self.params = {role: locations.values for role, locations in self.locations.items()}
        self.plate: DataPlate | None = find_data_plate(self.traces, batch)
        self.sized = False
        self.dependent: list[tuple[str, str]] | None = None

    @property
    def programs(self) -> tuple[tuple[str, poutine.Trace], ...]:
        """The traces by program, in the order in which they run."""
        return (("guide", self.guide), ("model", self.model))

    def sites(self, role: str) -> dict[str, Site]:
        """The sample sites of a program by name."""
        return dict(sample_sites(self.guide if role == "guide" else self.model))

    def location(self, role: str, site: str) -> Location | None:
        """File and line of a sample statement."""
        return self.locations[role].sites.get(site)

    def traces(self, batch: tuple[Tensor, ...]) -> tuple[poutine.Trace, poutine.Trace]:
        """Traces of model and guide on a batch; generators are preserved."""
        if batch is self.batch:
            return self.model, self.guide
        with preserve_generators():
            return paired_traces(self.pair.model, self.pair.guide, batch)

    def find_dependent_sites(self) -> list[tuple[str, str]]:
        """Program and site of terms that depend on other rows of the batch."""
        self.dependent = dependent_sites(self.pair.model, self.pair.guide, self.plate, self.batch)
        return self.dependent

    def _traced(self, batch: tuple[Tensor, ...]) -> tuple[poutine.Trace, poutine.Trace]:
        def located(role: str) -> Callable[..., object]:
            program = getattr(self.pair, role)

            def run(*args: Any) -> object:
                with self.locations[role]:
                    return program(*args)

            return run

        with preserve_generators():
            return paired_traces(located("model"), located("guide"), batch)


def describe_sites(inspection: Inspection) -> tuple[SiteRow, ...]:
    """The rows of a report's table, the guide's sites before the model's."""
    return tuple(
        _row(name, role, site)
        for role, _ in inspection.programs
        for name, site in inspection.sites(role).items()
    )


def _row(name: str, role: str, site: Site) -> SiteRow:
    fn = site["fn"]
    factor = site_is_factor(site)  # type: ignore[arg-type]
    return SiteRow(
        name,
        role,
        {frame.name: frame.size for frame in site["cond_indep_stack"]},
        tuple(fn.batch_shape),
        tuple(fn.event_shape),
        "factor" if factor else distribution_name(fn),
        fn.has_rsample and not site["is_observed"],
        site["is_observed"],
    )
