"""Batches for training, epoch by epoch, from rows on the device, a `Dataset` or a `DataLoader`."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from itertools import chain, islice
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from pvae._seeds import named_seed
from pvae._validation import whole
from pvae.data.splits import rows
from pvae.data.table import Rows, seen

__all__ = ["Batches", "batches", "default_batch_size"]


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
    def fingerprint(self) -> dict[str, object]:
        """What identifies the data; of a loader or a stream their type and number alone."""

    def first(self) -> tuple[Tensor, ...]:
        """The first batch of the first epoch, which that epoch has as well."""

    def epoch(self, number: int) -> Iterator[tuple[Tensor, ...]]:
        """The batches of one epoch, each the arguments of the programs, on the device."""


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
    there; a `Dataset` is read through a `DataLoader` of the given batch size. The order of both
    depends on (seed, number of the epoch) only, so that any epoch can be repeated without the ones
    before it. A `DataLoader` keeps its own batch size and order.

    A stream (an `IterableDataset`, or a `DataLoader` with steps_per_epoch) continues from one epoch
    to the next, and restarts at its end. The elements of a tuple are the arguments of the programs.
    x of uint8 becomes float32 in [0, 1] as in `Rows`; the first batch decides whether it has 2 or
    256 levels.

    Args:
        data: what `rows` accepts, a `torch.utils.data.Dataset`, an `IterableDataset` or a
            `DataLoader`.
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
        return _LoaderBatches(data, device, steps=steps_per_epoch)
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
        return _LoaderBatches(stream, device, steps=steps_per_epoch)
    if not isinstance(data, Sized):
        raise TypeError(
            f"data set {type(data).__qualname__} has no __len__: add one, "
            "or derive it from IterableDataset and give steps_per_epoch"
        )
    if len(data) == 0:
        raise ValueError(f"data set {type(data).__qualname__} is empty: give at least one row")
    _check_batch_size(batch_size, len(data))
    loader = DataLoader(data, batch_size=batch_size, shuffle=True, generator=generator)
    return _LoaderBatches(loader, device, seed=seed, steps=steps_per_epoch)


def default_batch_size(data: object, missing: Tensor | str | None = None) -> int:
    """128, or the number of rows if there are fewer."""
    if isinstance(data, Dataset | DataLoader) and not isinstance(data, TensorDataset):
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
        self._table, self._size, self._seed, self._steps = table, batch_size, seed, steps

    @property
    def fingerprint(self) -> dict[str, object]:
        table = self._table
        return {"rows": len(table), "shape": list(table.x_shape), "sha256": table.sha256()}

    def first(self) -> tuple[Tensor, ...]:
        return next(self.epoch(0))

    def epoch(self, number: int) -> Iterator[tuple[Tensor, ...]]:
        generator = torch.Generator(self._table.device).manual_seed(
            named_seed(self._seed, "shuffling", number)
        )
        if self._steps is None:
            return self._table.batches(self._size, generator=generator)
        return islice(self._passes(generator), self._steps)

    def _passes(self, generator: torch.Generator) -> Iterator[tuple[Tensor, ...]]:
        while True:
            yield from self._table.batches(self._size, generator=generator)


class _LoaderBatches:
    """Batches of a `DataLoader`, whose generator is seeded in each epoch if a seed is given."""

    def __init__(
        self,
        loader: DataLoader[object],
        device: torch.device,
        *,
        seed: int | None = None,
        steps: int | None = None,
    ) -> None:
        length = _length(loader)
        if length is None and steps is None:
            raise ValueError(
                f"{type(loader.dataset).__qualname__} is a stream of unknown length: give "
                "steps_per_epoch, or give the data set a __len__"
            )
        if length == 0:
            raise ValueError(
                "the DataLoader has no batches: its data set is empty, "
                "or drop_last leaves no full batch"
            )
        self.rows = _loader_rows(loader)
        self.batch_size = loader.batch_size
        self._loader, self._device, self._seed, self._steps = loader, device, seed, steps
        self.levels: int | None = None
        self.missing = False
        self._begun: Iterator[tuple[Tensor, ...]] | None = None
        self._stream: Iterator[tuple[Tensor, ...]] | None = None

    @property
    def fingerprint(self) -> dict[str, object]:
        return {"rows": self.rows, "type": type(self._loader.dataset).__qualname__}

    def first(self) -> tuple[Tensor, ...]:
        batches = self.epoch(0)
        batch = next(batches)
        if isinstance(self._loader.dataset, IterableDataset):  # which may yield it only once
            if self._stream is None:
                self._begun = chain([batch], batches)
            else:
                self._stream = chain([batch], self._stream)
        return batch

    def epoch(self, number: int) -> Iterator[tuple[Tensor, ...]]:
        if self._begun is not None:
            begun, self._begun = self._begun, None
            return begun
        if self._seed is not None:
            assert self._loader.generator is not None
            self._loader.generator.manual_seed(named_seed(self._seed, "shuffling", number))
            return self._one_pass() if self._steps is None else islice(self._passes(), self._steps)
        if self._steps is None:
            return self._one_pass()
        if self._stream is None:
            self._stream = self._passes()
        return islice(self._stream, self._steps)

    def _one_pass(self) -> Iterator[tuple[Tensor, ...]]:
        for item in self._loader:
            yield self._arguments(item)

    def _passes(self) -> Iterator[tuple[Tensor, ...]]:
        while True:
            empty = True
            for arguments in self._one_pass():
                empty = False
                yield arguments
            if empty:
                raise ValueError(
                    f"the stream {type(self._loader.dataset).__qualname__} returned no item: it is "
                    "empty, or cannot be iterated a second time"
                )

    def _arguments(self, item: object) -> tuple[Tensor, ...]:
        x, *more = (_checked(item),) if isinstance(item, Tensor) else _elements(item)
        if x.dtype == torch.uint8 and self.levels != 256:
            # The batch is still on the loader's device, so this does not read the GPU.
            binary = int(x.max()) <= 1
            if self.levels == 2 and not binary:
                raise ValueError(
                    "the first batch of uint8 data contained only 0 and 1, and a later one other "
                    "values: give floats in [0, 1] instead of uint8"
                )
            self.levels = 2 if binary else 256
        moved = [argument.to(self._device, non_blocking=True) for argument in (x, *more)]
        return (seen(moved[0], self.levels), *moved[1:])


def _elements(item: object) -> tuple[Tensor, ...]:
    if isinstance(item, dict):
        raise TypeError(
            f"the items of the data are dicts with the keys {sorted(map(str, item))}: the programs "
            "take arguments in order, so give tuples; for example a DataLoader with a collate_fn "
            f"that returns (batch[{next(iter(item), 'x')!r}], ...)"
        )
    if not isinstance(item, tuple | list) or not item:
        raise TypeError(
            f"the items of the data are of type {type(item).__qualname__}: "
            "expected a tensor, or a tuple of tensors"
        )
    return tuple(map(_checked, item))


def _checked(element: object) -> Tensor:
    if not isinstance(element, Tensor):
        raise TypeError(
            f"an item of the data has an element of type {type(element).__qualname__}: "
            "expected tensors; give the DataLoader a collate_fn that makes them"
        )
    if element.dim() == 0:
        raise TypeError(
            "an item of the data is a tensor without a batch dimension: give the DataLoader a "
            "batch_size, or a data set whose items are batches"
        )
    return element


def _length(loader: DataLoader[object]) -> int | None:
    """Batches in one pass; None if the data set does not say."""
    streamed = isinstance(loader.dataset, IterableDataset)
    return None if streamed and not isinstance(loader.dataset, Sized) else len(loader)


def _loader_rows(loader: DataLoader[object]) -> int | None:
    if loader.batch_size is None and loader.batch_sampler is None:
        return None  # the items are batches already, of sizes that nobody knows
    counted: object = loader.sampler
    if isinstance(loader.dataset, IterableDataset) or _draws_with_replacement(loader.sampler):
        counted = loader.dataset
    return len(counted) if isinstance(counted, Sized) else None


def _draws_with_replacement(sampler: object) -> bool:
    """Whether the sampler's length counts draws, not data."""
    return bool(getattr(sampler, "replacement", False))


def _check_batch_size(batch_size: int, size: int) -> None:
    if batch_size > size:
        raise ValueError(
            f"batch_size {batch_size} is above the {size} rows of the data: give {size} or less"
        )
