"""The guide once more, with its parameters held constant."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from torch import Tensor

from pvae.objectives.particles import Particles, Proposal

__all__ = ["held_constant"]


def held_constant(particles: Particles, batch: tuple[Any, ...], proposal: Proposal) -> Proposal:
    """The guide at the values of a proposal: log q of it is differentiated through z alone.

    Args:
        particles: draws from the pair.
        batch: the arguments of the programs.
        proposal: has the values, and knows the guide's parameters.
    """
    sites = proposal.trace.nodes.values()
    leaves = [cast(Any, site["value"]).unconstrained() for site in sites if site["type"] == "param"]
    with _constant(leaves):
        return particles.propose(batch, proposal.count, at=proposal)


@contextmanager
def _constant(leaves: list[Tensor]) -> Iterator[None]:
    """Nothing that is computed in the block is differentiated by these."""
    flags = [leaf.requires_grad for leaf in leaves]
    for leaf in leaves:
        leaf.requires_grad_(False)
    try:
        with warnings.catch_warnings():
            # pyro.module says so of each parameter; they are registered already.
            warnings.filterwarnings("ignore", ".*was not registered in the param store")
            yield
    finally:
        for leaf, flag in zip(leaves, flags, strict=True):
            leaf.requires_grad_(flag)
