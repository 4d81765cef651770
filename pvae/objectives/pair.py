"""A pair as an objective meets it: its data plate, and how its particles are drawn."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pyro import poutine
from torch import Tensor

from pvae.objectives.at_once import takes_particles
from pvae.objectives.particles import Particles
from pvae.objectives.weights import DataPlate, data_plate
from pvae.traces import latent_sites, paired_traces

__all__ = ["Pair", "Program", "UnsuitableError", "found_to_be"]

Program = Callable[..., object]


class UnsuitableError(ValueError):
    """An objective and a pair that do not go together; the message says why, and what would do."""


@dataclass(frozen=True)
class Pair:
    """A pair as an objective has found it to be, before its first step.

    Attributes:
        model: p(x, z).
        guide: q(z | x).
        plate: the data plate.
        particles: draws from it.
        model_trace: of a run on the first batch, at the draws of `guide_trace`.
        guide_trace: likewise.
    """

    model: Program
    guide: Program
    plate: DataPlate
    particles: Particles
    model_trace: poutine.Trace
    guide_trace: poutine.Trace

    @property
    def discrete(self) -> list[str]:
        """Sites of the guide whose draws have no gradient."""
        sites = latent_sites(self.guide_trace)
        return [name for name, site in sites.items() if not site["fn"].has_rsample]

    @property
    def shared(self) -> list[str]:
        """Global sites of the guide."""
        sites = latent_sites(self.guide_trace)
        return [name for name, site in sites.items() if self.plate.frame(site) is None]


def found_to_be(
    name: str, model: Program, guide: Program, batch: tuple[Any, ...], *, several: bool
) -> Pair:
    """Find out what an objective has to know of a pair.

    Args:
        name: of the objective.
        model: p(x, z).
        guide: q(z | x).
        batch: the arguments of the programs, each of shape (rows, ...).
        several: whether there will be more than one particle of a datum.

    Raises:
        UnsuitableError: no bound for each datum can be had of the pair.
    """
    if not batch or not isinstance(batch[0], Tensor) or not batch[0].dim():
        raise UnsuitableError(
            f"{name} takes a batch, x of shape (rows, ...), as the first argument of the "
            f"programs, not {_shape_of(batch[0]) if batch else 'nothing'}; use Trace_ELBO"
        )
    traces = paired_traces(model, guide, batch)
    plate = data_plate(lambda part: paired_traces(model, guide, part), batch)
    if plate is None or not plate.vectorized or plate.subsamples:
        what = (
            f"no plate of {len(batch[0])} elements encloses the data"
            if plate is None
            else f"plate {plate.name!r} picks rows of the batch by itself"
            if plate.subsamples
            else f"plate {plate.name!r} is a loop"
        )
        raise UnsuitableError(
            f"{name} is a bound for each datum, and {what}: put the sites of a datum into "
            'pyro.plate("data", len(x)), or use Trace_ELBO'
        )
    missing = [site for site in latent_sites(traces[0]) if site not in traces[1].nodes]
    if missing:
        raise UnsuitableError(
            f"{name} needs a draw of each latent site, and the guide has none of {missing}: "
            "add them to the guide, or use TraceEnum_ELBO, which sums them out"
        )
    particles = None
    if several:
        step = max(1, len(batch[0]) // 4)
        head = tuple(_rows(part, slice(None, None, step), len(batch[0])) for part in batch)
        particles = takes_particles(model, guide, plate, head, scaled=True)
    particles = particles or Particles(model, guide, plate, scaled=True)
    pair = Pair(model, guide, plate, particles, *traces)
    loose = [site for site in pair.shared if site in pair.discrete]
    if loose:
        raise UnsuitableError(
            f"{name} has no gradient of the global sites {loose}, whose draws are not "
            "reparameterized: use Trace_ELBO"
        )
    return pair


def _rows(part: Any, where: slice, rows: int) -> Any:
    return part[where] if isinstance(part, Tensor) and part.dim() and len(part) == rows else part


def _shape_of(value: object) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
