"""The values of a program's sites for any number of rows, rows first."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import torch
from pyro import poutine
from pyro.poutine.util import site_is_factor
from torch import Tensor

from pvae.pair.interventions import fixed
from pvae.pair.plate import from_rows, to_rows
from pvae.pair.traces import Site, sample_sites

__all__ = [
    "draws_of",
    "frame_of",
    "in_place",
    "is_local",
    "joined",
    "sites_of_batches",
    "stacked",
    "traced",
]


def traced(program: Callable[..., object], batch: tuple[Tensor, ...]) -> poutine.Trace:
    """A trace of a program on a batch."""
    return poutine.trace(program).get_trace(*batch)


def draws_of(
    program: Callable[..., object], batches: Iterable[tuple[Tensor, ...]]
) -> dict[str, Tensor]:
    """The values of every site, (rows, ...); global ones are those of the first batch."""
    return joined(sites_of_batches(program, batches))


def sites_of_batches(
    program: Callable[..., object], batches: Iterable[tuple[Tensor, ...]]
) -> Iterator[tuple[dict[str, Site], int]]:
    """The sites of each batch and its rows, with global sites at their values in the first."""
    global_values: dict[str, object] = {}
    for batch in batches:
        rows = len(batch[0])
        trace = traced(fixed(program, global_values), batch)
        sites = {
            name: site for name, site in sample_sites(trace) if not site_is_factor(cast(Any, site))
        }
        global_values |= {n: s["value"] for n, s in sites.items() if not is_local(s, rows)}
        yield sites, rows


def joined(parts: Iterable[tuple[dict[str, Site], int]]) -> dict[str, Tensor]:
    """The values of the sites of all batches, (rows, ...); of global ones, those of the first."""
    local: dict[str, list[Tensor]] = {}
    found: dict[str, Tensor] = {}
    for sites, rows in parts:
        for name, site in sites.items():
            found.setdefault(name, site["value"])
            if is_local(site, rows):
                local.setdefault(name, []).append(_rows_first(site, rows))
    return found | {name: torch.cat(values) for name, values in local.items()}


def stacked(draws: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Several draws of the same sites along a new first dimension."""
    by_site: dict[str, list[Tensor]] = {}
    for draw in draws:
        for name, value in draw.items():
            by_site.setdefault(name, []).append(value)
    return {name: torch.stack(values) for name, values in by_site.items()}


def frame_of(site: Site, rows: int) -> Any:
    """The outermost plate around a site with as many elements as a batch has rows, or None."""
    for frame in site["cond_indep_stack"]:
        if frame.dim is not None and rows in (frame.size, frame.full_size):
            return frame
    return None


def is_local(site: Site, rows: int) -> bool:
    """Whether a site has a value for each row."""
    # Without a plate, rows may still be the first dimension of an event.
    return frame_of(site, rows) is not None or site["value"].shape[:1] == (rows,)


def _rows_first(site: Site, rows: int) -> Tensor:
    frame, value = frame_of(site, rows), cast(Tensor, site["value"])
    return value if frame is None else to_rows(value, frame, len(site["fn"].event_shape))


def in_place(value: Tensor, site: Site, rows: int) -> Tensor:
    """A value of shape (rows, ...) with its rows where the site has them."""
    frame = frame_of(site, rows)
    return value if frame is None else from_rows(value, frame, len(site["fn"].event_shape))
