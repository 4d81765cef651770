"""Do rows of a batch depend on each other?"""

from collections.abc import Callable, Mapping
from typing import Any, cast

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pvae.pair.log_prob import site_log_prob, sum_to_rows
from pvae.pair.plate import DataPlate
from pvae.pair.preserve import preserve_generators, seeded
from pvae.pair.traces import guide_trace_of, latent_sites, sample_sites

__all__ = ["dependent_sites"]

_ROUNDING = 1e-3  # relative and absolute, since products may be summed in another order

_Terms = dict[tuple[str, str], Tensor]


def dependent_sites(
    model: Callable[..., object],
    guide: Callable[..., object],
    plate: DataPlate | None,
    batch: tuple[Tensor, ...],
) -> list[tuple[str, str]]:
    """Sites whose log-probability at one row changes when another row changes.

    One row of the batch is replaced by a copy of another, which stays within any support, while
    latent values and dropout masks are held fixed; then one row of the latent values, while the
    batch is. Random number generator states are restored afterward.

    Args:
        model: p(x, z).
        guide: q(z | x).
        plate: the data plate; without a vectorized one the result is empty.
        batch: the arguments of the programs, each of shape (rows, ...).

    Returns:
        (program, site) pairs, such as ("guide", "z"). Empty if rows are independent, if all rows
        are equal, or if the programs draw random numbers that cannot be held fixed.
    """
    row = _other_row(batch)
    if plate is None or not plate.vectorized or plate.subsamples or row is None:
        return []
    other = tuple(torch.cat([part[row : row + 1], part[1:]]) for part in batch)
    programs = {"guide": guide, "model": model}
    with preserve_generators(), pyro.validation_enabled(False):
        values = guide_trace_of(guide, *batch)
        before, again, by_data, copied, by_latents = (
            _at_values(programs, given, plate, data)
            for given, data in (
                (values, batch),
                (values, batch),
                (values, other),
                (_with_latents_of(values, plate, 0), batch),
                (_with_latents_of(values, plate, row), batch),
            )
        )
    if _changed(before, again):
        return []
    return list(dict.fromkeys([*_changed(before, by_data), *_changed(copied, by_latents)]))


def _other_row(batch: tuple[Tensor, ...]) -> int | None:
    """A row that differs from the first."""
    for row in range(1, len(batch[0])):
        if any(not torch.equal(part[0], part[row]) for part in batch):
            return row
    return None


def _with_latents_of(trace: poutine.Trace, plate: DataPlate, row: int) -> poutine.Trace:
    """A trace in which the latent values of the first row are those of another row."""
    changed = trace.copy()
    for name, site in latent_sites(trace).items():
        frame = plate.frame(site)
        if frame is None or frame.dim is None:
            continue
        dim = frame.dim - len(site["fn"].event_shape)
        value = site["value"]
        if -dim <= value.dim() and value.shape[dim] > row:
            rows = torch.arange(value.shape[dim], device=value.device)
            rows[0] = row
            changed.nodes[name] = cast(Any, {**site, "value": value.index_select(dim, rows)})
    return changed


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
