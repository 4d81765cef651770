"""The data plate: the plate of size len(batch) that encloses the observed sites."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from pyro import poutine
from pyro.poutine.indep_messenger import CondIndepStackFrame
from torch import Tensor

from pvae.pair.traces import Site, sample_sites

__all__ = ["DataPlate", "find_data_plate", "from_rows", "to_rows"]


@dataclass(frozen=True)
class DataPlate:
    """The plate of size len(batch) that encloses the observed sites.

    Attributes:
        name: its name in the model.
        rows: the number of rows, len(batch), of the batch on which it was found.
        full_size: the size that the program gives it; it differs from `rows` if the user sized the
            plate to the data set, of which the batch is a subsample.
        vectorized: False for `for i in pyro.plate(...)`.
        subsamples: whether the plate selects fewer rows of the batch itself.
        names: names of this and all other plates, in model and guide, whose size follows the
            batch's.
    """

    name: str
    rows: int
    full_size: int
    vectorized: bool
    subsamples: bool
    names: frozenset[str] = frozenset()

    def frame(self, site: Site) -> CondIndepStackFrame | None:
        """This plate's frame at a local site, or None at a global one."""
        stack: tuple[CondIndepStackFrame, ...] = site["cond_indep_stack"]
        return next((frame for frame in stack if frame.name in self.names), None)


def find_data_plate(
    traces: Callable[[tuple[Tensor, ...]], tuple[poutine.Trace, poutine.Trace]],
    batch: tuple[Tensor, ...],
) -> DataPlate | None:
    """Find the data plate of a pair, or None if no plate of size len(batch) encloses its data.

    Args:
        traces: returns the traces of model and guide on a batch.
        batch: the arguments of the programs, each of shape (rows, ...).
    """
    rows = len(batch[0])
    model_trace, guide_trace = traces(batch)
    found = _candidates(model_trace, rows)
    if not found:
        return None
    names = _of_size(model_trace, rows) | _of_size(guide_trace, rows)
    if len(names) > 1 and rows > 1:
        # A plate that has as many elements by coincidence does not follow the batch's size.
        fewer = traces(tuple(_but_last(part, rows) for part in batch))
        following = names & (_of_size(fewer[0], rows - 1) | _of_size(fewer[1], rows - 1))
        names = following or names
    plate = next((plate for name, plate in found.items() if name in names), None)
    return replace(plate, names=frozenset(names)) if plate is not None else None


def _but_last(part: Tensor, rows: int) -> Tensor:
    """One row less; numbers, and tensors that are not rows of data, stay as they are."""
    data = isinstance(part, Tensor) and part.dim() and len(part) == rows
    return part[:-1] if data else part


def _of_size(trace: poutine.Trace, rows: int) -> set[str]:
    """Names of plates that have this many rows or this full size."""
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


def to_rows(value: Tensor, frame: CondIndepStackFrame, event_dim: int = 0) -> Tensor:
    """Move the data plate's dimension to the front; a value common to all rows is expanded."""
    assert frame.dim is not None
    dim = frame.dim - event_dim
    sizes: Sequence[int] = torch.broadcast_shapes(value.shape, (frame.size,) + (1,) * (-dim - 1))
    return value.expand(sizes).movedim(dim, 0)


def from_rows(value: Tensor, frame: CondIndepStackFrame, event_dim: int = 0) -> Tensor:
    """Move the rows of a value of shape (rows, ...) to the data plate's dimension."""
    assert frame.dim is not None
    return value.movedim(0, frame.dim - event_dim)
