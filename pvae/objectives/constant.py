"""log q with the guide's parameters held constant."""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from pvae.objectives.structure import PairStructure
from pvae.pair.log_prob import Terms
from pvae.pair.particles import Proposal
from pvae.pair.preserve import preserve_flags

__all__ = ["log_q_of_values"]


def log_q_of_values(structure: PairStructure, batch: tuple[Any, ...], proposal: Proposal) -> Terms:
    """log q at the values of a proposal by site, differentiated through these values alone.

    Runs the guide again, which computes its point masses from the other values.

    Args:
        structure: model and guide.
        batch: the arguments of the programs.
        proposal: the draws.
    """
    # New tensors, since transforms cache the inverse of the ones that they produced.
    values = {name: value.view_as(value) for name, value in proposal.values.items()}
    fresh = Proposal(proposal.trace, proposal.count, proposal.depth, values)
    with _constant(structure.parameters.values()):
        # Within the block, since networks of transforms run in log_prob.
        return structure.particles.log_q(
            structure.particles.propose(batch, proposal.count, at=fresh)
        )


@contextmanager
def _constant(parameters: Iterable[Tensor]) -> Iterator[None]:
    """Hold parameters constant within the block."""
    constants = list(parameters)
    with preserve_flags(constants), warnings.catch_warnings():
        # pyro.module warns about each parameter, although they are registered already.
        warnings.filterwarnings("ignore", ".*was not registered in the param store")
        for parameter in constants:
            parameter.requires_grad_(False)
        yield
