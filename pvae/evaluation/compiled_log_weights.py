"""Log-weight terms from a compiled graph, if enough blocks of one shape pay for the compilation."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from pvae.engine.inductor import compile_recording
from pvae.engine.reads import CaptureError
from pvae.engine.recording import Recording, record
from pvae.pair.log_prob import Terms
from pvae.pair.preserve import preserve_generators

__all__ = ["CompiledTerms"]

# Number of blocks of one shape that pays for compilation, which takes seconds; more for single
# rows, which pairs without a data plate are evaluated in.
_ENOUGH, _ENOUGH_SINGLE = 200, 5000
_RELATIVE, _ABSOLUTE = 1e-4, 1e-2  # rounding of a sum over the elements of x, in nats

_Run = Callable[[tuple[Tensor, ...], int], Terms]


class CompiledTerms:
    """A function of batch and number of particles, compiled for frequent shapes.

    The compiled graph draws the same random numbers. Its first block is compared with the function;
    if they differ, or if recording or compilation fails, the function itself is used.

    Args:
        run: from a batch and a number of particles to the terms of their log-weights.
        shapes: rows and particles of each block to come.
    """

    def __init__(self, run: _Run, shapes: Iterable[tuple[int, int]]) -> None:
        self.run = run
        self.frequent = {
            shape
            for shape, times in Counter(shapes).items()
            if times >= (_ENOUGH_SINGLE if shape == (1, 1) else _ENOUGH)
        }
        self.graphs: dict[tuple[int, int], tuple[Recording, list[str]] | None] = {}

    def __call__(self, batch: tuple[Tensor, ...], count: int) -> Terms:
        """The terms of a block."""
        shape = (len(batch[0]), count)
        if shape not in self.frequent or batch[0].is_cuda:
            return self.run(batch, count)
        if shape not in self.graphs:
            self.graphs[shape] = self._compile(batch, count)
        graph = self.graphs[shape]
        return self.run(batch, count) if graph is None else _replay(graph, batch)

    def _compile(self, batch: tuple[Tensor, ...], count: int) -> tuple[Recording, list[str]] | None:
        with preserve_generators():
            expected = self.run(batch, count)
        sites = list(expected.local)
        if expected.global_:
            return None

        def values(*given: Tensor) -> tuple[Tensor, ...]:
            terms = self.run(given, count).local
            return tuple(terms[site] for site in sites)

        try:
            graph = compile_recording(record(values, [], [], batch, {}), batch), sites
        except CaptureError:
            return None
        with preserve_generators():
            got = _replay(graph, batch)
        same = all(
            torch.allclose(got.local[site], value, _RELATIVE, _ABSOLUTE)
            for site, value in expected.local.items()
        )
        return graph if same else None


def _replay(graph: tuple[Recording, list[str]], batch: Sequence[Tensor]) -> Terms:
    recording, sites = graph
    values: Sequence[object] = recording(batch).losses
    return Terms(dict(zip(sites, values, strict=True)), {})  # type: ignore[arg-type]
