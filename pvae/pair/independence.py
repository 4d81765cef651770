"""Whether the terms of a datum depend on the other data of its batch."""

from collections.abc import Callable, Mapping

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pvae.pair.log_prob import DataPlate, log_probs
from pvae.pair.preserve import preserved, seeded

__all__ = ["moved_by_neighbours"]

_ROUNDING = 1e-3  # relative: products of other shapes are summed in another order

_Terms = dict[tuple[str, str], Tensor]


def moved_by_neighbours(
    model: Callable[..., object],
    guide: Callable[..., object],
    plate: DataPlate | None,
    batch: tuple[Tensor, ...],
) -> list[tuple[str, str]]:
    """Programs and sites whose log-probability at one datum changes when another datum does.

    One row of the batch is replaced by another, which any support allows for; the latent sites keep
    their values, and dropout its masks. Generators are left as they were.

    Args:
        model: p(x, z).
        guide: q(z | x).
        plate: the data plate; nothing can be told without a vectorized one.
        batch: the arguments of the programs, each of shape (rows, ...).

    Returns:
        Pairs such as ("guide", "z"); empty where data do not meet, where all rows are equal, or
        where the programs draw what cannot be held fixed.
    """
    other = _perturbed(batch)
    if plate is None or not plate.vectorized or plate.subsamples or other is None:
        return []
    programs = {"guide": guide, "model": model}
    with preserved(), pyro.validation_enabled(False):
        values = poutine.trace(guide).get_trace(*batch)
        before, again, after = (
            _at_values(programs, values, plate, data) for data in (batch, batch, other)
        )
    return [] if _moved(before, again) else _moved(before, after)


def _perturbed(batch: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    first = batch[0]
    for row in range(1, len(first)):
        if any(not torch.equal(part[0], part[row]) for part in batch):
            return tuple(torch.cat([part[row : row + 1], part[1:]]) for part in batch)
    return None


def _at_values(
    programs: Mapping[str, Callable[..., object]],
    values: poutine.Trace,
    plate: DataPlate,
    batch: tuple[Tensor, ...],
) -> _Terms:
    with seeded(0):
        traces = {
            role: poutine.trace(poutine.replay(program, trace=values)).get_trace(*batch)
            for role, program in programs.items()
        }
    return {
        (role, name): value
        for role, trace in traces.items()
        for name, value in log_probs(trace, plate).local.items()
    }


def _moved(before: _Terms, after: _Terms) -> list[tuple[str, str]]:
    """The sites whose terms differ at rows other than the first."""
    return [
        site
        for site, values in before.items()
        if not torch.allclose(
            values[1:], after[site][1:], rtol=_ROUNDING, atol=_ROUNDING, equal_nan=True
        )
    ]
