"""Many steps in one launch: batches, gradients, clipping and updates in one CUDA graph."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import torch
from torch import Tensor

from pvae.data import Rows
from pvae.engine.cuda_graph import graph_of
from pvae.engine.fused_adam import FusedAdam
from pvae.engine.parts import Parts
from pvae.engine.recording import Recording
from pvae.engine.step import Step
from pvae.engine.streams import Fork, aside

__all__ = ["ManySteps"]

_SIZES = (64, 16, 4, 1)  # numbers of steps that have a graph

Update = Callable[[Step, Tensor], None]  # along the gradients of a step, over a divisor


@dataclass(frozen=True)
class _Launch:
    """A graph of several steps.

    Attributes:
        launch: executes it.
        index: the row numbers that it reads, (steps, rows).
        losses: those of its steps, (steps,).
        norms: of their gradients, (steps,), if these are clipped.
        batch: that of its last step.
    """

    launch: Callable[[], None]
    index: Tensor
    losses: Tensor
    norms: Tensor | None
    batch: tuple[Tensor, ...]


@dataclass
class ManySteps:
    """Launches steps that replay one recording, on batches of rows that lie on a CUDA device.

    Its steps compute what single ones compute, and draw what they draw.

    Attributes:
        recording: of a step, not as a CUDA graph.
        adam: updates the parameters.
        data: the rows.
        divisor: of the loss, shape ().
        clipped: from a step, the divisor and an update, which it calls, to the gradient's norm, or
            None if gradients are not clipped.
        batch: the last one.
    """

    recording: Recording
    adam: FusedAdam
    data: Rows
    divisor: Tensor
    clipped: Callable[[Step, Tensor, Update], Tensor | None]
    batch: tuple[Tensor, ...] = ()
    _launches: dict[tuple[int, bool], _Launch] = field(default_factory=dict)
    _generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        self._fixed = self.adam.fixed()

    def serves(self, recording: Recording, adam: FusedAdam, data: Rows, divisor: Tensor) -> bool:
        """Whether its graphs are those of these steps."""
        same = recording is self.recording and adam is self.adam and data is self.data
        return same and divisor is self.divisor and adam.fixed() == self._fixed

    def __call__(
        self, index: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor | None]:
        """Take the first of these steps, as many as a graph has.

        Args:
            index: row numbers of each batch, int64 (steps, rows).
            generator: for dynamic binarization.

        Returns:
            The divided losses of the steps that were taken, shape (n,), and the norms of their
            divided gradients, or None.
        """
        steps = next(size for size in _SIZES if size <= len(index))
        rates = self.adam.rates()
        if self._generator is None and generator is not None:
            self._generator = torch.Generator(index.device)
        own = None if generator is None else self._generator
        key = (steps, own is None)
        if key not in self._launches:
            self._launches[key] = self._made(index[:steps], rates, own)
        launch = self._launches[key]
        launch.index.copy_(index[:steps])
        if generator is not None and own is not None:
            own.set_state(generator.get_state())
        launch.launch()
        if generator is not None and own is not None:
            generator.set_state(own.get_state())
        self.batch = launch.batch
        return launch.losses.clone(), None if launch.norms is None else launch.norms.clone()

    def _made(
        self, index: Tensor, rates: Sequence[Tensor], generator: torch.Generator | None
    ) -> _Launch:
        index = index.clone()

        def update(step: Step, divisor: Tensor) -> None:
            self.adam.update_in_pieces(step.gradients, divisor, rates)

        def work() -> tuple[Tensor, Tensor | None, tuple[Tensor, ...]]:
            losses, norms, kept = [], [], []
            with torch.no_grad():
                for begun in aside([partial(self._begin, rows, generator) for rows in index]):
                    with Fork() as fork:
                        fork.start(self.adam.count)
                        kept.append(begun())  # nothing else may take its memory
                        done = self._finish(*kept[-1])
                    losses.append(cast(Tensor, done.losses[0]))
                    norms.append(self.clipped(done, self.divisor, update))
                divided = torch.stack(losses).float() / self.divisor
            found = [norm for norm in norms if norm is not None]
            return divided, torch.stack(found) if found else None, kept[-1][0]

        launch, (losses, norms, batch) = graph_of(work, generator=generator)
        return _Launch(launch, index, losses, norms, batch)

    def _begin(
        self, rows: Tensor, generator: torch.Generator | None
    ) -> tuple[tuple[Tensor, ...], list[object] | None]:
        """What needs no parameters: the batch, and noise if all of it is drawn first."""
        batch, run = self.data.arguments(rows, generator), self.recording.run
        if isinstance(run, Parts) and run.draws_without(len(batch)):
            return batch, run.begin(*batch, *self.recording.constants)
        return batch, None

    def _finish(self, batch: tuple[Tensor, ...], begun: list[object] | None) -> Step:
        run = self.recording.run
        if begun is None or not isinstance(run, Parts):
            return self.recording(batch)
        return self.recording.step(run.finish(begun))
