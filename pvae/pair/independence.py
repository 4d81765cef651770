"""Do rows of a batch depend on each other?"""

from collections.abc import Callable, Mapping

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pvae.pair.log_prob import site_log_prob, sum_to_rows
from pvae.pair.plate import DataPlate
from pvae.pair.preserve import preserve_generators, seeded
from pvae.pair.traces import guide_trace_of, sample_sites

__all__ = ["dependent_sites"]

_ROUNDING = 1e-3  # relative and absolute, since products may be summed in another order

_Terms = dict[tuple[str, str], Tensor]


def dependent_sites(
    model: Callable[..., object],
    guide: Callable[..., object],
    plate: DataPlate | None,
    batch: tuple[Tensor, ...],
) -> list[tuple[str, str]]:
    """Sites whose log-probability at one row changes when another row of the batch changes.

    One row of the batch is replaced by a copy of another, which stays within any support; latent
    values and dropout masks are held fixed. Random number generator states are restored afterward.

    Args:
        model: p(x, z).
        guide: q(z | x).
        plate: the data plate; without a vectorized one the result is empty.
        batch: the arguments of the programs, each of shape (rows, ...).

    Returns:
        (program, site) pairs, such as ("guide", "z"). Empty if rows are independent, if all rows
        are equal, or if the programs draw random numbers that cannot be held fixed.
    """
    other = _perturbed(batch)
    if plate is None or not plate.vectorized or plate.subsamples or other is None:
        return []
    programs = {"guide": guide, "model": model}
    with preserve_generators(), pyro.validation_enabled(False):
        values = guide_trace_of(guide, *batch)
        before, again, after = (
            _at_values(programs, values, plate, data) for data in (batch, batch, other)
        )
    return [] if _changed(before, again) else _changed(before, after)


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
    found: _Terms = {}
    for role, trace in traces.items():
        for name, site in sample_sites(trace):
            if plate.frame(site) is None:
                continue
            try:
                found[role, name] = sum_to_rows(site_log_prob(site, plate), site, plate)
            except (LookupError, NotImplementedError):
                continue  # a flow without an inverse knows the density of its own draws alone
    return found


def _changed(before: _Terms, after: _Terms) -> list[tuple[str, str]]:
    """The sites whose log-probabilities differ at rows other than the first."""
    return [
        site
        for site, values in before.items()
        if site in after
        and not torch.allclose(
            values[1:], after[site][1:], rtol=_ROUNDING, atol=_ROUNDING, equal_nan=True
        )
    ]
