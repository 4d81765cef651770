"""The steps of an epoch: their batches, each process's rows of these, losses and gradients."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from pvae.checking import program_failed
from pvae.data import Batches
from pvae.data.loaders import LoaderBatches
from pvae.data.minibatches import Blocks
from pvae.engine.all_reduce import ProcessEndedError
from pvae.engine.recording import on_cuda
from pvae.pair.pair import Pair
from pvae.pair.preserve import generator_state, restore_generators
from pvae.svi import SVI
from pvae.training.divergence import out_of_range
from pvae.training.options import Options
from pvae.training.processes import Processes
from pvae.training.scaling import Scaling
from pvae.training.state import TrainingState

__all__ = ["Steps", "Taken"]


_AT_ONCE = 256  # steps between which a training may be interrupted or saved


@dataclass(frozen=True)
class Taken:
    """Steps that were taken.

    Attributes:
        losses: of their batches, in nats per datum.
        norms: of their gradients, if gradients are clipped.
        sizes: rows of each batch.
        batch: the last one.
        goes_on: whether the epoch can go on.
    """

    losses: Tensor | list[Tensor]
    norms: Tensor | list[Tensor]
    sizes: list[int]
    batch: tuple[Tensor, ...]
    goes_on: bool = True


@dataclass
class Steps:
    """Takes the gradient steps of an epoch, from where the state is.

    Attributes:
        pair: the networks and parameters to train.
        svi: computes gradients and updates.
        source: batches for training.
        options: options of the training.
        scaling: what each site counts.
        processes: those that divide the rows of each batch.
        state: which steps were taken.
    """

    pair: Pair
    svi: SVI
    source: Batches
    options: Options
    scaling: Scaling
    processes: Processes
    state: TrainingState

    @property
    def _skips(self) -> bool:
        return self.options.on_nan == "skip"

    def epoch(
        self, number: int, see: Callable[[tuple[Tensor, ...]], object] | None
    ) -> Iterator[Taken]:
        """Take the steps that are left of an epoch, several at a time where that is possible.

        Args:
            number: of the epoch.
            see: gets each batch before its step.
        """
        blocks = self._blocks(number) if see is None else None
        if blocks is not None:
            yield from self._launched(blocks)
            return
        for group in self.groups(number):
            if see is not None:
                for batch in group:
                    see(batch)
            losses, norm, goes_on = self.attempt(group)
            norms = [] if norm is None else [norm]
            yield Taken(losses, norms, [len(x) for x, *_ in group], group[-1], goes_on)
            if not goes_on:
                return

    def _blocks(self, number: int) -> Blocks | None:
        """The batches that are left, if the device can take many steps without the host."""
        alone = self.options.accumulate == 1 and not self._skips and not self.processes.several
        if not alone or not on_cuda(self.pair.parameters().values()):
            return None
        return self.source.blocks(number, len(self.state.partial.sizes))

    def _launched(self, blocks: Blocks) -> Iterator[Taken]:
        rows, generator, svi = blocks.rows, blocks.generator, self.svi
        for block in blocks.numbers:
            numbers = block
            divisor = self.scaling.set_batch(numbers.shape[1])
            while len(numbers):
                part, taken = numbers[: self._at_once()], 0
                try:
                    for losses, norms in svi.launches(
                        rows, part, divisor=divisor, generator=generator
                    ):
                        self.state.step += len(losses)
                        taken += len(losses)
                        sizes = [numbers.shape[1]] * len(losses)
                        yield Taken(losses, [] if norms is None else norms, sizes, svi.batch)
                except (RuntimeError, ValueError) as error:
                    self.state.step += 1
                    self._explain(error, [rows.arguments(part[taken])])
                    nan = torch.full((1,), torch.nan, device=part.device)
                    yield Taken(nan, [], [numbers.shape[1]], svi.batch, goes_on=False)
                    return
                numbers = numbers[len(part) :]

    def _at_once(self) -> int:
        """Number of steps before something is to be done between two."""
        if self.options.ema is not None:
            return 1
        every = self.options.save_steps
        return _AT_ONCE if every is None else min(_AT_ONCE, every - self.state.step % every)

    def groups(self, number: int) -> Iterator[list[tuple[Tensor, ...]]]:
        """The batches of each step that is left of an epoch; measures how long they take."""
        partial = self.state.partial
        began = time.perf_counter()
        batches = self._batches(number)
        while group := list(islice(batches, self.options.accumulate)):
            partial.loading += time.perf_counter() - began
            yield group
            began = time.perf_counter()

    def attempt(self, group: list[tuple[Tensor, ...]]) -> tuple[list[Tensor], Tensor | None, bool]:
        """Take a step that may fail because the training has diverged.

        Returns:
            As `take`, with NaN for losses if it failed, and whether the epoch can go on.

        Raises:
            PairError: if a program made a mistake of another kind.
            ProcessEndedError: if another process ended.
        """
        try:
            return *self.take(group), True
        except ProcessEndedError:
            raise
        except (RuntimeError, ValueError) as error:
            self._explain(error, group)
        nan = torch.full((), torch.nan, device=self.pair.device)
        losses = [nan] * len(group)
        if self.processes.several:  # the others take this step, too
            self.svi.spoil(skip_nonfinite=self._skips)
            if len(group) > 1:
                self.processes.mean(*[torch.stack(losses[1:])] * 2)
            return losses, None, True
        return losses, None, self._skips and self.pair.finite()

    def take(self, group: list[tuple[Tensor, ...]]) -> tuple[list[Tensor], Tensor | None]:
        """One gradient step; returns the loss of each batch, and the norm of the gradient."""
        self.state.step += 1
        losses: list[Tensor] = []
        norm = None
        skip = self._skips
        shards = [self._shard(batch) for batch in group]
        if self.svi.all_reduce is not None:
            self.svi.all_reduce.rows = sum(rows for _, rows in shards)
            self.svi.all_reduce.loss_rows = shards[-1][1]
        for place, (batch, _) in enumerate(shards, 1):
            divisor = self.scaling.set_batch(len(batch[0]))
            if place < len(group):
                loss = self.svi.accumulate(batch, divisor=divisor, skip_nonfinite=skip)
            else:
                loss, norm = self.svi.step_tensor(batch, divisor=divisor, skip_nonfinite=skip)
            losses.append(loss)
        if self.processes.several and len(group) > 1:  # the last one is that of all processes
            weights = losses[0].new_tensor([rows for _, rows in shards[:-1]])
            losses[:-1] = self.processes.mean(torch.stack(losses[:-1]), weights).unbind()
        if skip:  # all batches of a step that was skipped
            losses = [torch.where(torch.isfinite(losses[-1]), x, torch.nan) for x in losses]
        return losses, norm

    def healthy(self) -> bool:
        """Whether parameters and losses are finite, apart from steps that were skipped."""
        skipped = self.state.partial.skipped()
        good = not skipped.all() if self._skips else not skipped.any()
        return bool(len(skipped) and good and self.pair.finite())

    def _batches(self, number: int) -> Iterator[tuple[Tensor, ...]]:
        """Batches of an epoch that are left after its steps so far."""
        partial = self.state.partial
        if self.processes.several and isinstance(self.source, LoaderBatches):
            taken = len(partial.sizes)
            return self.processes.same_draws(lambda: self.source.epoch(number, taken), number)
        if not partial.sizes:
            return self.source.epoch(number)
        now = generator_state()
        restore_generators(partial.generators)  # as at the start of the epoch
        left = self.source.epoch(number, len(partial.sizes))
        restore_generators(now)
        return left

    def _shard(self, batch: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], int]:
        """The rows of a batch that this process computes, and how many count."""
        if not self.processes.several or self.source.divided:
            return batch, len(batch[0])
        return self.processes.shard(batch)

    def _explain(self, error: Exception, group: list[tuple[Tensor, ...]]) -> None:
        """Raise what a step raised, explained, unless the training has diverged.

        Raises:
            PairError: if a program made a mistake of another kind.
        """
        partial, skip = self.state.partial, self._skips
        if not self.pair.finite() or (partial.skipped().any() and not skip):
            return
        model, guide = self.svi.model, self.svi.guide
        known = skip or partial.losses
        if known and any(out_of_range(model, guide, batch) for batch in group):
            return
        raise program_failed(error, group[-1], self.pair.elsewhere()) from error
