"""Batches for training, epoch by epoch, from rows on the device, a `Dataset` or a `DataLoader`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sized
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from pvae._seeds import named_seed
from pvae._validation import whole
from pvae.data.file_rows import FileBatches, FileRows, is_whole_file
from pvae.data.loaders import LoaderBatches, after
from pvae.data.splits import rows
from pvae.data.table import Rows

__all__ = ["Batches", "Blocks", "batches", "default_batch_size"]


@dataclass(frozen=True)
class Blocks:
    """Batches of an epoch by the numbers of their rows.

    Attributes:
        rows: all rows.
        generator: draws their order and dynamic binarization.
        numbers: of the rows of several batches of one size at a time, int64 (batches, size).
    """

    rows: Rows
    generator: torch.Generator
    numbers: Iterator[Tensor]


class Batches(Protocol):
    """A source of batches for training, one epoch after another.

    Example:
        >>> source: Batches = batches(
        ...     torch.zeros(10, 3), batch_size=4, device=torch.device("cpu"), seed=0
        ... )
        >>> source.rows, source.batch_size, [len(x) for (x,) in source.epoch(0)]
        (10, 4, [4, 4, 2])
    """

    @property
    def rows(self) -> int | None:
        """Number of rows of the data; None if unknown, as for an endless stream."""

    @property
    def batch_size(self) -> int | None:
        """Number of rows in a full batch; None if unknown."""

    @property
    def levels(self) -> int | None:
        """Number of grey levels of uint8 data, as far as they are known; None of other data."""

    @property
    def missing(self) -> bool:
        """Whether x may have NaN where a value is missing."""

    @property
    def divided(self) -> bool:
        """Whether each process of a training gets other rows already, by a sampler of its own."""

    @property
    def fingerprint(self) -> dict[str, object]:
        """What identifies the data; of a loader or a stream their type and number alone."""

    def first(self) -> tuple[Tensor, ...]:
        """The first batch of the first epoch, which that epoch has as well."""

    def epoch(self, number: int, skip: int = 0) -> Iterator[tuple[Tensor, ...]]:
        """The batches of one epoch, each the arguments of the programs, on the device.

        Args:
            number: of the epoch, counted from 0.
            skip: how many of its batches are left out, as a training that stopped within it has
                seen them.
        """

    def blocks(self, number: int, skip: int = 0) -> Blocks | None:
        """What `epoch` yields as rows on the device and their numbers; None of other sources."""

    def row_numbers(self, number: int, first: int) -> Tensor | None:
        """Numbers of the rows of one batch, after `first` others; None if they are unknown.

        Args:
            number: of the epoch.
            first: how many batches of the epoch come before.
        """

    def state_dict(self) -> dict[str, Any]:
        """Where a loader that keeps its place is; of other data nothing is needed."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was called."""


def batches(
    data: object,
    *,
    batch_size: int,
    device: torch.device,
    seed: int,
    steps_per_epoch: int | None = None,
    missing: Tensor | str | None = None,
) -> Batches:
    """Make batches for training from any kind of data.

    What `rows` accepts is stored on the device in its smallest type, and shuffled and divided
    there (one batch of all rows is in order); a `Dataset` is read through a `DataLoader` of the
    given batch size. The order of both depends on (seed, number of the epoch) only, so that any
    epoch can be repeated without the ones before it. A `DataLoader` keeps its own batch size and
    order.

    A stream (an `IterableDataset`, or a `DataLoader` with steps_per_epoch) continues from one epoch
    to the next, and restarts at its end. A resumed training asks a loader, or else its data set,
    for `load_state_dict`, with what its `state_dict` returned, as those of torchdata have; without
    it, a stream is read again up to where the training was. The elements of a tuple are the
    arguments of the programs. x of uint8 becomes float32 in [0, 1] as in `Rows`; the first batch
    decides whether it has 2 or 256 levels.

    Args:
        data: what `rows` accepts, a `torch.utils.data.Dataset`, an `IterableDataset`, a
            `DataLoader`, or `FileRows` and memory-mapped .npy files, whose rows stay on disk.
        batch_size: rows per batch, at least 1; the last batch of an epoch may be smaller.
        device: device of the batches.
        seed: of shuffling and dynamic binarization, together with the number of the epoch.
        steps_per_epoch: batches per epoch (default: one pass over the data).
        missing: what is missing of x, as in `Rows`; for data that `rows` accepts.

    Raises:
        ValueError: if there are no data, batch_size is below 1 or above the number of rows, or a
            stream of unknown length comes without steps_per_epoch.
        TypeError: if `rows` rejects the data; during iteration, if an item is not a tensor.

    Example:
        >>> of_data = batches(torch.zeros(10, 3), batch_size=4, device=torch.device("cpu"), seed=0)
        >>> [len(x) for (x,) in of_data.epoch(0)]
        [4, 4, 2]
    """
    whole(1, batch_size=batch_size, steps_per_epoch=steps_per_epoch)
    if isinstance(data, DataLoader):
        return LoaderBatches(data, device, steps=steps_per_epoch)
    if isinstance(data, np.memmap) and missing is None and is_whole_file(data):
        data = FileRows(str(data.filename))
    if isinstance(data, FileRows):
        _check_batch_size(batch_size, len(data))
        return FileBatches(data, batch_size, device, seed=seed, steps=steps_per_epoch)
    if not isinstance(data, Dataset) or isinstance(data, TensorDataset):
        table = rows(data, missing=missing)
        _check_batch_size(batch_size, len(table))
        return _RowBatches(table.to(device), batch_size, seed=seed, steps=steps_per_epoch)
    # With its own generator, a loader does not use torch's global one.
    generator = torch.Generator()
    if isinstance(data, IterableDataset):
        if isinstance(data, Sized) and len(data) > 0:
            _check_batch_size(batch_size, len(data))
        generator.manual_seed(named_seed(seed, "shuffling"))
        stream = DataLoader(data, batch_size=batch_size, generator=generator)
        return LoaderBatches(stream, device, steps=steps_per_epoch)
    if not isinstance(data, Sized):
        raise TypeError(
            f"data set {type(data).__qualname__} has no __len__: add one, "
            "or derive it from IterableDataset and give steps_per_epoch"
        )
    if len(data) == 0:
        raise ValueError(f"data set {type(data).__qualname__} is empty: give at least one row")
    _check_batch_size(batch_size, len(data))
    loader = DataLoader(data, batch_size=batch_size, shuffle=True, generator=generator)
    return LoaderBatches(loader, device, seed=seed, steps=steps_per_epoch)


def default_batch_size(data: object, missing: Tensor | str | None = None) -> int:
    """128, or the number of rows if there are fewer."""
    if isinstance(data, np.memmap):
        size = len(data)
    elif isinstance(data, Dataset | DataLoader) and not isinstance(data, TensorDataset):
        size = len(data) if isinstance(data, Sized) and not isinstance(data, DataLoader) else 128
    else:
        size = len(rows(data, missing=missing))
    return min(128, max(1, size))


class _RowBatches:
    """Batches of rows that are stored on the device."""

    def __init__(self, table: Rows, batch_size: int, *, seed: int, steps: int | None) -> None:
        self.rows: int | None = len(table)
        self.batch_size: int | None = batch_size
        self.levels = table.levels
        self.missing = table.missing is not None
        self.divided = False
        self._table, self._size, self._seed, self._steps = table, batch_size, seed, steps

    @property
    def fingerprint(self) -> dict[str, object]:
        table = self._table
        return {"rows": len(table), "shape": list(table.x_shape), "sha256": table.sha256()}

    def first(self) -> tuple[Tensor, ...]:
        return next(self.epoch(0))

    def row_numbers(self, number: int, first: int) -> Tensor | None:
        if self._steps is not None:
            return None
        order = self._table.order(self._generator(number), self._size).split(self._size)
        return order[first] if first < len(order) else None

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass

    def epoch(self, number: int, skip: int = 0) -> Iterator[tuple[Tensor, ...]]:
        generator = self._generator(number)
        every = (
            self._table.batches(self._size, generator=generator)
            if self._steps is None
            else islice(self._passes(generator), self._steps)
        )
        return after(skip, every)

    def blocks(self, number: int, skip: int = 0) -> Blocks:
        generator = self._generator(number)
        return Blocks(self._table, generator, self._numbers(generator, skip))

    def _numbers(self, generator: torch.Generator, skip: int) -> Iterator[Tensor]:
        """Row numbers of the batches after `skip` others, which draw what they draw."""
        left = self._steps
        while left is None or left > 0:
            order = self._table.order(generator, self._size)
            full = len(order) // self._size * self._size
            blocks = [order[:full].view(-1, self._size)]
            blocks += [order[full:].view(1, -1)] if full < len(order) else []
            for one in blocks:
                block = one[:left]
                for index in block[:skip]:
                    self._table.arguments(index, generator)
                if len(block) > skip:
                    yield block[skip:]
                left = None if left is None else left - len(block)
                skip = max(0, skip - len(block))
            if left is None:
                return

    def _generator(self, number: int) -> torch.Generator:
        seed = named_seed(self._seed, "shuffling", number)
        return torch.Generator(self._table.device).manual_seed(seed)

    def _passes(self, generator: torch.Generator) -> Iterator[tuple[Tensor, ...]]:
        while True:
            yield from self._table.batches(self._size, generator=generator)


def _check_batch_size(batch_size: int, size: int) -> None:
    if batch_size > size:
        raise ValueError(
            f"batch_size {batch_size} is above the {size} rows of the data: give {size} or less"
        )
