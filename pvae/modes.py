"""Networks in eval mode for as long as something is evaluated."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import nn

from pvae.modules import belongings_of
from pvae.reach import reach

__all__ = ["evaluating"]


@contextmanager
def evaluating(*programs: Callable[..., object]) -> Iterator[None]:
    """Networks of the programs are in eval mode within the block, and as before after it."""
    known = belongings_of(*programs)
    if known is not None:
        networks = list(known.networks.values())
    else:
        networks = [net for _, net in reach({str(i): p for i, p in enumerate(programs)}, nn.Module)]
    modes = [(part, part.training) for network in networks for part in network.modules()]
    try:
        for network in networks:
            network.eval()
        yield
    finally:
        for part, mode in modes:
            part.training = mode
