"""Batches of a `DataLoader`, epoch by epoch."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterator, Mapping, Sized
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset

from pvae._seeds import named_seed
from pvae.data.table import seen

__all__ = ["LoaderBatches", "after"]


class LoaderBatches:
    """Batches of a `DataLoader`, whose generator is seeded in each epoch if a seed is given.

    A loader, or a data set that is read in this process, which has `state_dict` and
    `load_state_dict` keeps its place itself; others are read again up to it.
    """

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
        self.divided = isinstance(loader.sampler, DistributedSampler)
        self._loader, self._device, self._seed, self._steps = loader, device, seed, steps
        self.levels: int | None = None
        self.missing = False
        self._own = _with_state(loader)
        self._seen = 0  # batches of a stream that were used
        self._at_first: dict[str, Any] | None = None  # before a batch that is still to be used
        self._begun: Iterator[tuple[Tensor, ...]] | None = None
        self._stream: Iterator[tuple[Tensor, ...]] | None = None

    @property
    def fingerprint(self) -> dict[str, object]:
        """The number of rows and the type of the data, which may be read once alone."""
        return {"rows": self.rows, "type": type(self._loader.dataset).__qualname__}

    def first(self) -> tuple[Tensor, ...]:
        """The first batch, which a stream yields again in its first epoch."""
        before = self.state_dict()
        batches, seen_before = self.epoch(0), self._seen
        batch = next(batches)
        if isinstance(self._loader.dataset, IterableDataset):  # which may yield it only once
            if self._stream is None:
                self._begun = chain([batch], batches)
            else:
                self._stream, self._seen = chain([batch], self._stream), seen_before
            self._at_first = before
        else:
            self.load_state_dict(before)
        return batch

    def blocks(self, number: int, skip: int = 0) -> None:
        """A loader makes its batches itself."""

    def row_numbers(self, number: int, first: int) -> Tensor | None:
        """Unknown: a loader does not say what its rows are."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """Where the loader is, if it keeps its place itself."""
        if self._own is None:
            return {}
        if self._at_first is not None:
            return self._at_first
        return copy.deepcopy(self._own.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was called."""
        if self._own is not None:
            self._own.load_state_dict(copy.deepcopy(dict(state)))
            self._begun = self._stream = self._at_first = None

    def epoch(self, number: int, skip: int = 0) -> Iterator[tuple[Tensor, ...]]:
        """The batches of an epoch, counted from 0, without the first `skip`.

        A stream that goes on from epoch to epoch is read up to the epoch if it is not there yet.
        """
        self._at_first = None
        if isinstance(self._loader.sampler, DistributedSampler):
            self._loader.sampler.set_epoch(number)
        left = None if self._steps is None else self._steps - skip
        skip = skip if self._own is None else 0  # it is there already
        if self._begun is not None:
            begun, self._begun = self._begun, None
            return after(skip, begun)
        if self._seed is not None:
            assert self._loader.generator is not None
            self._loader.generator.manual_seed(named_seed(self._seed, "shuffling", number))
            return islice(
                after(skip, self._passes() if left is not None else self._one_pass()), left
            )
        if left is None:
            return after(skip, self._one_pass())
        if self._stream is None:
            self._stream = self._passes()
        if self._own is None:
            missed = number * (left + skip) + skip - self._seen
            deque(self._counted(max(0, missed)), maxlen=0)
        return self._counted(left)

    def _counted(self, number: int) -> Iterator[tuple[Tensor, ...]]:
        """Batches of the stream."""
        assert self._stream is not None
        for batch in islice(self._stream, number):
            self._seen += 1
            yield batch

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


def after(number: int, batches: Iterator[tuple[Tensor, ...]]) -> Iterator[tuple[Tensor, ...]]:
    """Batches without the first ones, which are read at once."""
    deque(islice(batches, number), maxlen=0)
    return batches


def _with_state(loader: DataLoader[object]) -> Any:
    """What keeps its place itself: the loader, or its data set; None if neither does."""
    readers: list[object] = [loader]
    if loader.num_workers == 0 and isinstance(loader.dataset, IterableDataset):
        readers.append(loader.dataset)  # those of workers are copies
    for reader in readers:
        if hasattr(reader, "state_dict") and hasattr(reader, "load_state_dict"):
            return reader
    return None


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
