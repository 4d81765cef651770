"""Draws from the guide with their log-weights, several for each datum of a batch."""

from collections.abc import Callable
from dataclasses import dataclass

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from pvae.objectives.weights import DataPlate, log_probs, terms
from pvae.randomness import preserved
from pvae.traces import Site, paired_traces, sample_sites

__all__ = ["Draws", "draws_at_once", "tiled", "tiled_draws"]

_TRIED = 3  # particles by which a way to draw is tried
# What a program raises that was not written for a further dimension.
_CANNOT = (RuntimeError, ValueError, IndexError, TypeError, NotImplementedError, AssertionError)


@dataclass(frozen=True)
class Draws:
    """Terms of the log-weights of draws, in nats.

    Attributes:
        local: by site, shape (particles, rows).
        shared: by global site, shape (); one draw for all.
    """

    local: dict[str, Tensor]
    shared: dict[str, Tensor]


def tiled(batch: tuple[Tensor, ...], count: int) -> tuple[Tensor, ...]:
    """The batch with each row so many times: all rows, then all rows again."""
    return tuple(part.repeat(count, *(1,) * (part.dim() - 1)) for part in batch)


def tiled_draws(
    model: Callable[..., object],
    guide: Callable[..., object],
    batch: tuple[Tensor, ...],
    count: int,
    plate: DataPlate | None,
) -> Draws:
    """Run both programs on the tiled batch.

    Raises:
        ValueError: a data plate that subsamples by itself.
    """
    width = len(batch[0])
    local, shared = terms(*paired_traces(model, guide, tiled(batch, count)), plate)
    if plate is None:
        return Draws({site: value.reshape(1, 1) for site, value in shared.items()}, {})
    for site, value in local.items():
        if len(value) != count * width:
            raise ValueError(
                f"site {site!r} has {len(value)} rows in plate {plate.name!r} for a batch of "
                f"{count * width}: a plate that subsamples by itself cannot be evaluated datum by "
                "datum; pass the subsample as the batch"
            )
    by_site = {site: value.reshape(count, width) for site, value in local.items()}
    return Draws(by_site, shared)


def draws_at_once(
    model: Callable[..., object],
    guide: Callable[..., object],
    plate: DataPlate,
    head: tuple[Tensor, ...],
) -> Callable[[tuple[Tensor, ...], int], Draws] | None:
    """A way to draw that runs the guide once for all particles, in a plate of its own.

    What the guide computes of the data alone is then computed once. It is tried on a few rows: the
    log-probabilities must be those of the tiled guide at the same values.

    Args:
        model: p(x, z).
        guide: q(z | x).
        plate: the data plate.
        head: a few rows of the data.

    Returns:
        A function of a batch and a count; or None where the guide does not take another plate.
    """
    with preserved():
        sites = [site for _, site in sample_sites(poutine.trace(guide).get_trace(*head))]
    frames = [frame for site in sites for frame in site["cond_indep_stack"]]
    if any(plate.frame(site) is None for site in sites) or not all(f.vectorized for f in frames):
        return None  # a global site has one value for all particles
    depth = max((-frame.dim for frame in frames), default=1)

    def proposed(
        batch: tuple[Tensor, ...], count: int, *, masked: bool = True
    ) -> dict[str, _Proposed]:
        with pyro.plate("particles of the data", count, dim=-depth - 1):
            trace = poutine.trace(guide).get_trace(*batch)
        return {name: _flat(site, count, plate, masked) for name, site in sample_sites(trace)}

    def draw(batch: tuple[Tensor, ...], count: int) -> Draws:
        found = proposed(batch, count)
        at_values = poutine.replay(model, trace=_as_trace(found))
        trace = poutine.trace(at_values).get_trace(*tiled(batch, count))
        local, shared = log_probs(trace, plate)
        by_site = {}
        for name, site in sample_sites(trace):
            if name in local and (site["is_observed"] or name in found):
                by_site[name] = local[name].reshape(count, -1)
        for name, (_, log_prob) in found.items():
            by_site[name] = by_site.get(name, 0.0) - log_prob
        return Draws(by_site, shared)

    try:
        with preserved():
            found = proposed(head, _TRIED, masked=False)
            at_values = poutine.replay(guide, trace=_as_trace(found))
            again = poutine.trace(at_values).get_trace(*tiled(head, _TRIED))
            for _, site in sample_sites(again):
                site["mask"] = None  # what is masked here may count elsewhere
            wanted = log_probs(again, plate).local
            same = all(
                torch.allclose(wanted[name].reshape(log_prob.shape), log_prob, 1e-3, 1e-3)
                for name, (_, log_prob) in found.items()
            )
            return draw if same and not draw(head, _TRIED).shared else None
    except _CANNOT:
        return None


# A site's values for the tiled rows, (particles * rows, ...), and its log-probabilities,
# (particles, rows).
_Proposed = tuple[Tensor, Tensor]


def _flat(site: Site, count: int, plate: DataPlate, masked: bool) -> _Proposed:
    """What a site in a plate of particles is for a tiled batch."""
    frame = plate.frame(site)
    assert frame is not None
    assert frame.dim is not None
    events = len(site["fn"].event_shape)
    # Particles come first; put before the data they become one dimension with them.
    before = frame.dim - events - 1
    value = site["value"].movedim(0, before).flatten(before, before + 1)
    while value.dim() > events - frame.dim and value.shape[0] == 1:
        value = value[0]
    mask = site["mask"] if masked else None
    log_prob = scale_and_mask(site["fn"].log_prob(site["value"]), 1.0, mask)
    outer = (1,) * (log_prob.dim() - 1 + frame.dim)
    shape = (count, *outer, frame.size, *(1,) * (-frame.dim - 1))
    log_prob = log_prob.expand(torch.broadcast_shapes(log_prob.shape, shape))
    return value, log_prob.movedim(frame.dim, 1).reshape(count, frame.size, -1).sum(-1)


def _as_trace(found: dict[str, _Proposed]) -> poutine.Trace:
    """A trace in which sites have these values."""
    trace = poutine.Trace()
    for name, (value, _) in found.items():
        trace.add_node(name, type="sample", name=name, value=value, is_observed=False, infer={})
    return trace
