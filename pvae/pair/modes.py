"""Networks in eval mode for as long as something is evaluated."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import nn

from pvae.pair.discovery import reach
from pvae.pair.program import Program

__all__ = ["evaluating"]


@contextmanager
def evaluating(*programs: Callable[..., object]) -> Iterator[None]:
    """Networks of the programs are in eval mode within the block, and as before after it."""
    raw = {str(i): p for i, p in enumerate(programs) if not isinstance(p, Program)}
    networks = [network for _, network in reach(raw, nn.Module)]
    for program in programs:
        if isinstance(program, Program):
            networks += program.belongings.networks.values()
    modes = [(part, part.training) for network in networks for part in network.modules()]
    try:
        for network in networks:
            network.eval()
        yield
    finally:
        for part, mode in modes:
            part.training = mode
