"""log q with the guide's parameters held constant."""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from pvae.objectives.structure import Pair
from pvae.pair.log_prob import Terms
from pvae.pair.particles import Proposal

__all__ = ["log_q_of_values"]


def log_q_of_values(pair: Pair, batch: tuple[Any, ...], proposal: Proposal) -> Terms:
    """log q at the values of a proposal by site, differentiated through these values alone.

    The guide is run again.

    Args:
        pair: model and guide.
        batch: the arguments of the programs.
        proposal: has the values.
    """
    # Other tensors than the first run's, which transforms would look up with what made them.
    values = {name: value.view_as(value) for name, value in proposal.values.items()}
    fresh = Proposal(proposal.trace, proposal.count, proposal.depth, values)
    with _constant(pair.parameters.values()):
        # Within the block: transforms have networks that run in log_prob.
        return pair.particles.log_q(pair.particles.propose(batch, proposal.count, at=fresh))


@contextmanager
def _constant(parameters: Iterable[Tensor]) -> Iterator[None]:
    """Nothing that is computed in the block is differentiated by these."""
    flags = [(parameter, parameter.requires_grad) for parameter in parameters]
    for parameter, _ in flags:
        parameter.requires_grad_(False)
    try:
        with warnings.catch_warnings():
            # pyro.module says so of each parameter; they are registered already.
            warnings.filterwarnings("ignore", ".*was not registered in the param store")
            yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
