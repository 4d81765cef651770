"""The guide run once for all particles, where it takes a further dimension."""

from collections.abc import Callable
from typing import Any

import torch
from pyro import poutine

from pvae.pair.log_prob import DataPlate
from pvae.pair.particles import Particles, Proposal, trace_of
from pvae.pair.preserve import preserved
from pvae.pair.tiling import tiled_arguments
from pvae.pair.traces import sample_sites

__all__ = ["takes_particles"]

_TRIED = 3  # particles by which a way to draw is tried
# What a program raises that was not written for a further dimension.
_CANNOT = (
    RuntimeError,
    ValueError,
    LookupError,
    TypeError,
    NotImplementedError,
    AssertionError,
)


def takes_particles(
    model: Callable[..., object],
    guide: Callable[..., object],
    plate: DataPlate,
    head: tuple[Any, ...],
    *,
    scaled: bool = False,
) -> Particles | None:
    """Particles of a pair whose guide is run once for all of them, or None if it cannot be.

    It is tried on a few rows: the log-probabilities must be those of the tiled guide at the same
    values. Generators are left as they were.

    Args:
        model: p(x, z).
        guide: q(z | x).
        plate: the data plate.
        head: a few rows of the data.
        scaled: as in `Particles`.
    """
    with preserved():
        sites = [site for _, site in sample_sites(poutine.trace(guide).get_trace(*head))]
    frames = [frame for site in sites for frame in site["cond_indep_stack"]]
    if any(plate.frame(site) is None for site in sites) or not all(f.vectorized for f in frames):
        return None  # a global site has one value for all particles
    depth = max((-frame.dim for frame in frames), default=1)
    particles = Particles(model, guide, plate, depth=depth, scaled=scaled)
    try:
        with preserved():
            found = particles.propose(head, _TRIED)
            as_rows = {n: particles.as_rows(found, n, v) for n, v in found.values.items()}
            at_values = poutine.replay(guide, trace=trace_of(as_rows))
            trace = poutine.trace(at_values).get_trace(*tiled_arguments(head, _TRIED))
            again = Proposal(trace, _TRIED, 0)
            for site in (*found.sites.values(), *again.sites.values()):
                site["mask"] = None  # what is masked here may count elsewhere
            wanted, got = particles.log_q(again).local, particles.log_q(found).local
            shapes = all(again.sites[n]["fn"].shape() == v.shape for n, v in as_rows.items())
            same = shapes and all(torch.allclose(wanted[n], got[n], 1e-3, 1e-3) for n in got)
            return particles if same and not particles.draw(head, _TRIED).log_p.shared else None
    except _CANNOT:
        return None
