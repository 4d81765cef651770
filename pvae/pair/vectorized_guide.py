"""Run the guide once for all particles, if it broadcasts over one more dimension."""

from collections.abc import Callable
from typing import Any

import torch
from pyro import poutine

from pvae.pair.distributions import unmasked
from pvae.pair.particles import Particles, Proposal, trace_of
from pvae.pair.plate import DataPlate
from pvae.pair.preserve import preserve_generators
from pvae.pair.tiling import tiled_arguments
from pvae.pair.traces import sample_sites

__all__ = ["vectorized_particles"]

_TRIED = 3  # particles of the trial run
# What a program may raise that was not written for one more dimension.
_CANNOT = (
    RuntimeError,
    ValueError,
    LookupError,
    TypeError,
    NotImplementedError,
    AssertionError,
)


def vectorized_particles(
    model: Callable[..., object],
    guide: Callable[..., object],
    plate: DataPlate,
    head: tuple[Any, ...],
    *,
    scaled: bool = False,
) -> Particles | None:
    """Particles of a pair whose guide runs once for all of them; None if the guide cannot.

    A trial on a few rows compares the log-probabilities with those of the guide on a tiled batch at
    the same values. Generators are preserved.

    Args:
        model: p(x, z).
        guide: q(z | x).
        plate: the data plate.
        head: a few rows of the data.
        scaled: as in `Particles`.
    """
    with preserve_generators():
        sites = [site for _, site in sample_sites(poutine.trace(guide).get_trace(*head))]
    frames = [frame for site in sites for frame in site["cond_indep_stack"]]
    if any(plate.frame(site) is None for site in sites) or not all(f.vectorized for f in frames):
        return None  # a global site has one value for all particles
    depth = max((-frame.dim for frame in frames), default=1)
    particles = Particles(model, guide, plate, depth=depth, scaled=scaled)
    try:
        with preserve_generators():
            found = particles.propose(head, _TRIED)
            as_rows = {n: particles.as_rows(found, n, v) for n, v in found.values.items()}
            at_values = poutine.replay(guide, trace=trace_of(as_rows))
            trace = poutine.trace(at_values).get_trace(*tiled_arguments(head, _TRIED))
            again = Proposal(trace, _TRIED, 0)
            for site in (*found.sites.values(), *again.sites.values()):
                # What is masked here may count elsewhere.
                site["mask"], site["fn"] = None, unmasked(site["fn"])
            wanted, got = particles.log_q(again).local, particles.log_q(found).local
            shapes = all(again.sites[n]["fn"].shape() == v.shape for n, v in as_rows.items())
            same = shapes and all(torch.allclose(wanted[n], got[n], 1e-3, 1e-3) for n in got)
            return particles if same and not particles.draw(head, _TRIED).log_p.global_ else None
    except _CANNOT:
        return None
