"""From a pair of traces to the terms of log p(x, z) - log q(z | x), by datum and by site."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.indep_messenger import CondIndepStackFrame
from torch import Tensor

from pvae.pair.traces import Site, sample_sites

__all__ = [
    "DataPlate",
    "Terms",
    "by_row",
    "data_plate",
    "log_probs",
    "own_scale",
    "site_log_prob",
    "terms",
]


@dataclass(frozen=True)
class DataPlate:
    """The plate of size len(batch) that encloses the observed sites.

    Attributes:
        name: its name in the model.
        rows: the number of data it held when it was found, len(batch).
        full_size: the size that the program gives it; not `rows` where the user sized the plate to
            the data set and the batch is its subsample.
        vectorized: False for `for i in pyro.plate(...)`.
        subsamples: whether the plate picks fewer rows out of the batch by itself.
        names: of this and all other plates, in model and guide, whose size follows the batch's.
    """

    name: str
    rows: int
    full_size: int
    vectorized: bool
    subsamples: bool
    names: frozenset[str] = frozenset()

    def frame(self, site: Site) -> CondIndepStackFrame | None:
        """This plate's frame at a site, or None for a global site."""
        stack: tuple[CondIndepStackFrame, ...] = site["cond_indep_stack"]
        return next((frame for frame in stack if frame.name in self.names), None)


class Terms(NamedTuple):
    """Terms of the log-weight by site: model minus guide, without `poutine.scale`.

    Attributes:
        local: for sites inside the data plate, shape (rows,), in nats.
        shared: for global sites, shape (), in nats.
    """

    local: dict[str, Tensor]
    shared: dict[str, Tensor]


def data_plate(
    traces: Callable[[tuple[Tensor, ...]], tuple[poutine.Trace, poutine.Trace]],
    batch: tuple[Tensor, ...],
) -> DataPlate | None:
    """Find the data plate of a model, or None where no plate of size len(batch) encloses its data.

    Args:
        traces: gives traces of model and guide for a batch.
        batch: the arguments of the programs, each of shape (rows, ...).
    """
    rows = len(batch[0])
    model_trace, guide_trace = traces(batch)
    found = _candidates(model_trace, rows)
    if not found:
        return None
    names = _of_size(model_trace, rows) | _of_size(guide_trace, rows)
    if len(names) > 1 and rows > 1:
        # A plate that happens to have as many elements does not follow the batch's size.
        fewer = traces(tuple(_but_last(part, rows) for part in batch))
        following = names & (_of_size(fewer[0], rows - 1) | _of_size(fewer[1], rows - 1))
        names = following or names
    plate = next((plate for name, plate in found.items() if name in names), None)
    return replace(plate, names=frozenset(names)) if plate is not None else None


def _but_last(part: Tensor, rows: int) -> Tensor:
    """A row less; numbers, and tensors that are no rows of data, stay as they are."""
    data = isinstance(part, Tensor) and part.dim() and len(part) == rows
    return part[:-1] if data else part


def _of_size(trace: poutine.Trace, rows: int) -> set[str]:
    """Names of plates that hold so many rows, or subsample so many."""
    return {
        frame.name
        for _, site in sample_sites(trace)
        for frame in site["cond_indep_stack"]
        if rows in (frame.size, frame.full_size)
    }


def _candidates(trace: poutine.Trace, rows: int) -> dict[str, DataPlate]:
    return {
        frame.name: DataPlate(
            frame.name,
            rows,
            frame.full_size or frame.size,
            frame.vectorized,
            frame.size != rows,
        )
        for _, site in sample_sites(trace)
        if site["is_observed"]  # a factor too: it is a term of the likelihood
        for frame in site["cond_indep_stack"]
        if rows in (frame.size, frame.full_size)
    }


def terms(model_trace: poutine.Trace, guide_trace: poutine.Trace, plate: DataPlate | None) -> Terms:
    """The terms of log p(x, z) - log q(z | x) at the values of two traces.

    Args:
        model_trace: the model, replayed against the guide's trace.
        guide_trace: the guide.
        plate: the data plate; all terms are shared without one, or if it is not vectorized.

    Returns:
        Terms by site, in nats. A site's scale is left out, since a datum counts once; its mask
        counts.
    """
    of_model, of_guide = log_probs(model_trace, plate), log_probs(guide_trace, plate)
    for name, site in sample_sites(model_trace):
        if not site["is_observed"] and name not in guide_trace.nodes:
            # Summed out by the objective: proposed from its prior, so that it cancels.
            of_model.local.pop(name, None)
            of_model.shared.pop(name, None)
    for table, proposed in zip(of_model, of_guide, strict=True):
        for name, log_prob in proposed.items():
            table[name] = table.get(name, 0.0) - log_prob
    return of_model


def log_probs(trace: poutine.Trace, plate: DataPlate | None, *, scaled: bool = False) -> Terms:
    """The log-probabilities of one trace by site, in nats.

    Args:
        trace: of a model or a guide.
        plate: the data plate; all sites are shared without one, or if it is not vectorized.
        scaled: multiply by `poutine.scale`, as `site_log_prob` does.
    """
    found = Terms({}, {})
    for name, site in sample_sites(trace):
        inside, term = _term(site, plate, scaled)
        (found.local if inside else found.shared)[name] = term
    return found


def site_log_prob(site: Site, plate: DataPlate | None, *, scaled: bool = False) -> Tensor:
    """The log-probability of a site at its value, in nats, with its mask.

    Args:
        site: of a trace.
        plate: the data plate.
        scaled: multiply by the site's scale, but for what stands for data outside of the batch
            (the scale of a data plate that is larger than it), since a datum counts once.
    """
    log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
    scale = own_scale(site, plate) if scaled else 1.0
    counted: Tensor = scale_and_mask(log_prob, scale, site["mask"])
    return counted


def own_scale(site: Site, plate: DataPlate | None) -> float | Tensor:
    """A site's scale, but for that of a data plate which is larger than the batch."""
    frame = plate.frame(site) if plate is not None else None
    scale: float | Tensor = site["scale"]
    if frame is None or not frame.full_size or frame.full_size == frame.size:
        return scale
    return scale * (frame.size / frame.full_size)


def by_row(log_prob: Tensor, site: Site, plate: DataPlate) -> Tensor:
    """What a local site has in its batch dimensions, summed but for the rows; shape (rows,)."""
    frame = plate.frame(site)
    assert frame is not None
    if frame.dim is None:
        return log_prob.sum().reshape(1)
    # A plate that subsamples by itself holds fewer rows than the batch.
    shape = torch.broadcast_shapes(log_prob.shape, (frame.size,) + (1,) * (-frame.dim - 1))
    by_datum: Tensor = log_prob.expand(shape).movedim(frame.dim, 0).reshape(frame.size, -1)
    return by_datum.sum(1)


def _term(site: Site, plate: DataPlate | None, scaled: bool) -> tuple[bool, Tensor]:
    """Whether a site is in the data plate; its log-probability, by datum there or else summed."""
    log_prob = site_log_prob(site, plate, scaled=scaled)
    if plate is None or plate.frame(site) is None:
        return False, log_prob.sum()
    return True, by_row(log_prob, site, plate)
