"""Draws from a compiled graph, where there are enough of one shape to pay for compiling."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from pvae.engine.inductor import compiled
from pvae.engine.recording import CaptureError, Recording, record
from pvae.evaluation.draws import Draws
from pvae.pair.preserve import preserved

__all__ = ["Replayed"]

# Blocks of one shape from which on a graph is compiled, which takes some seconds; more of single
# rows, for pairs whose data cannot be told apart.
_ENOUGH, _ENOUGH_SINGLE = 200, 5000
_RELATIVE, _ABSOLUTE = 1e-4, 1e-2  # rounding of a sum over the elements of x, in nats

_Draw = Callable[[tuple[Tensor, ...], int], Draws]


class Replayed:
    """A way to draw, compiled for the shapes that come often; called like the way itself.

    A compiled graph draws the same random numbers. Its first block is compared with the way itself;
    where they differ, or where it cannot be recorded or compiled, the way itself is kept.

    Args:
        draw: from a batch and a count of particles to draws.
        shapes: rows and count of each block that will be asked for.
    """

    def __init__(self, draw: _Draw, shapes: Iterable[tuple[int, int]]) -> None:
        self.draw = draw
        self.often = {
            shape
            for shape, times in Counter(shapes).items()
            if times >= (_ENOUGH_SINGLE if shape == (1, 1) else _ENOUGH)
        }
        self.graphs: dict[tuple[int, int], tuple[Recording, list[str]] | None] = {}

    def __call__(self, batch: tuple[Tensor, ...], count: int) -> Draws:
        """The draws of a block."""
        shape = (len(batch[0]), count)
        if shape not in self.often or batch[0].is_cuda:
            return self.draw(batch, count)
        if shape not in self.graphs:
            self.graphs[shape] = self._made(batch, count)
        graph = self.graphs[shape]
        return self.draw(batch, count) if graph is None else _run(graph, batch)

    def _made(self, batch: tuple[Tensor, ...], count: int) -> tuple[Recording, list[str]] | None:
        with preserved():
            expected = self.draw(batch, count)
        sites = list(expected.local)
        if expected.shared:
            return None

        def values(*given: Tensor) -> tuple[Tensor, ...]:
            drawn = self.draw(given, count).local
            return tuple(drawn[site] for site in sites)

        try:
            graph = compiled(record(values, [], [], batch, {}), batch), sites
        except CaptureError:
            return None
        with preserved():
            got = _run(graph, batch)
        same = all(
            torch.allclose(got.local[site], value, _RELATIVE, _ABSOLUTE)
            for site, value in expected.local.items()
        )
        return graph if same else None


def _run(graph: tuple[Recording, list[str]], batch: Sequence[Tensor]) -> Draws:
    recording, sites = graph
    values: Sequence[object] = recording(batch).losses
    return Draws(dict(zip(sites, values, strict=True)), {})  # type: ignore[arg-type]
