"""`batches`: training epochs from rows, data sets, loaders and streams."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest
import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    SubsetRandomSampler,
    TensorDataset,
)

from pvae.data import Batches, Rows, batches

CPU = torch.device("cpu")


class Listed(Dataset[object]):
    """A map-style data set of the given items."""

    def __init__(self, items: list[object]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> object:
        return self.items[index]


class Stream(IterableDataset[Tensor]):
    """The numbers 0, 1, 2, ..., infinite or up to a size."""

    def __init__(self, size: int | None = None) -> None:
        self.size = size

    def __iter__(self) -> Iterator[Tensor]:
        for i in count() if self.size is None else range(self.size):
            yield torch.tensor([float(i)])


class SizedStream(Stream):
    def __len__(self) -> int:
        assert self.size is not None
        return self.size


def numbers(n: int) -> list[object]:
    return [torch.tensor([float(i)]) for i in range(n)]


def make(data: object, *, seed: int = 0, size: int = 4, steps: int | None = None) -> Batches:
    return batches(data, batch_size=size, device=CPU, seed=seed, steps_per_epoch=steps)


def epoch(of: Batches, number: int = 0) -> list[float]:
    return [value for (x, *_) in of.epoch(number) for value in x.flatten().tolist()]


@pytest.mark.parametrize("data", [torch.arange(10.0).reshape(10, 1), Listed(numbers(10))])
def test_epochs_replay_and_differ(data: object) -> None:
    of = make(data)
    epochs = [epoch(of, number) for number in range(3)]
    assert (of.rows, of.batch_size) == (10, 4)
    assert all(sorted(values) == list(range(10)) for values in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    # Epoch 2 without the epochs before it, as in a resumed run, has the same batches.
    assert epoch(make(data), 2) == epochs[2]
    assert epoch(make(data, seed=1), 2) != epochs[2]


@pytest.mark.parametrize("data", [torch.arange(10.0), Listed(numbers(10)), Stream()])
def test_global_generator_unchanged(data: object) -> None:
    before = torch.random.get_rng_state()
    epoch(make(data, steps=2))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("data", [torch.arange(10.0).reshape(10, 1), Listed(numbers(10))])
def test_steps_per_epoch(data: object) -> None:
    assert len(list(make(data, steps=2).epoch(0))) == 2
    longer = make(data, steps=5)
    sizes = [len(x) for (x,) in longer.epoch(0)]
    assert sizes == [4, 4, 2, 4, 4]
    assert epoch(longer, 7) == epoch(make(data, steps=5), 7)


def test_dynamic_binarization_replays() -> None:
    data = Rows(torch.full((6, 50), 0.5), binarize="dynamic")
    assert epoch(make(data), 0) != epoch(make(data), 1)
    assert epoch(make(data), 1) == epoch(make(data), 1)


def test_loader() -> None:
    loader = DataLoader(TensorDataset(torch.arange(10.0)), batch_size=3)
    of = make(loader)
    assert (of.rows, of.batch_size) == (10, 3)
    assert [len(x) for (x,) in of.epoch(0)] == [3, 3, 3, 1]
    assert epoch(of, 1) == list(range(10))
    # A loader cut into epochs must continue where it stopped; otherwise its last rows are lost.
    cut = make(loader, steps=3)
    assert epoch(cut, 0) == list(range(9))
    assert epoch(cut, 1) == [9, 0, 1, 2, 3, 4, 5]


def test_rows_of_loader() -> None:
    data = TensorDataset(torch.arange(10.0))
    assert make(DataLoader(data, sampler=SubsetRandomSampler([1, 2, 3]))).rows == 3
    assert make(DataLoader(data, batch_size=None)).rows is None


def test_streams() -> None:
    with pytest.raises(
        ValueError, match="Stream is a stream of unknown length: give steps_per_epo"
    ):
        make(Stream())
    with pytest.raises(ValueError, match="steps_per_epoch"):
        make(DataLoader(Stream()))
    endless = make(Stream(), steps=2)
    assert (endless.rows, endless.batch_size) == (None, 4)
    assert epoch(endless, 0) == list(range(8))
    assert epoch(endless, 1) == list(range(8, 16)), "a stream goes on across epochs"
    ending = make(Stream(6), steps=2)
    assert epoch(ending, 0) + epoch(ending, 1) == [*range(6), *range(6)]
    sized = make(SizedStream(6))
    assert sized.rows == 6
    assert epoch(sized, 0) == epoch(sized, 1) == list(range(6))
    with pytest.raises(ValueError, match="returned no item"):
        epoch(make(Stream(0), steps=1))


def test_tuples_are_arguments() -> None:
    items: list[object] = [(torch.full((2,), i / 10), i) for i in range(6)]
    for x, y in make(Listed(items)).epoch(0):
        assert y.dtype == torch.int64
        assert torch.equal(x[:, 0], y / 10)


def test_uint8_items_are_scaled() -> None:
    grey: list[object] = [torch.tensor([0, 255], dtype=torch.uint8)] * 4
    binary: list[object] = [torch.tensor([0, 1], dtype=torch.uint8)] * 4
    for items in (grey, binary):
        (x,) = next(make(Listed(items)).epoch(0))
        assert x.dtype == torch.float32
        assert x[0].tolist() == [0.0, 1.0]
    with pytest.raises(ValueError, match="the first batch of uint8 data contained only 0 and 1"):
        epoch(make(DataLoader(Listed([*binary, *grey]), batch_size=4)))


def test_invalid_items_raise() -> None:
    with pytest.raises(TypeError, match=r"dicts with the keys \['x', 'y'\].*collate_fn.*'x'"):
        epoch(make(Listed([{"x": torch.zeros(2), "y": 1}] * 4)))
    with pytest.raises(TypeError, match="an element of type tuple"):
        epoch(make(Listed([(torch.zeros(2), "a")] * 4), size=2))
    with pytest.raises(TypeError, match="without a batch dimension"):
        epoch(make(DataLoader(TensorDataset(torch.zeros(4)), batch_size=None)))


@pytest.mark.parametrize("data", [torch.zeros(3, 2), Listed(numbers(3)), SizedStream(3)])
def test_batch_size_above_rows_raises(data: object) -> None:
    with pytest.raises(ValueError, match="batch_size 4 is above the 3 rows of the data: give 3"):
        make(data)


def test_empty_data_and_invalid_sizes_raise() -> None:
    with pytest.raises(ValueError, match="Listed is empty"):
        make(Listed([]))
    with pytest.raises(ValueError, match="x is empty"):
        make(torch.zeros(0, 2))
    with pytest.raises(ValueError, match="drop_last leaves no full batch"):
        make(DataLoader(Listed(numbers(3)), batch_size=4, drop_last=True))
    with pytest.raises(ValueError, match="batch_size is 0"):
        make(torch.zeros(3), size=0)
    with pytest.raises(ValueError, match="steps_per_epoch is 0"):
        make(torch.zeros(3), size=1, steps=0)
    with pytest.raises(TypeError, match="data is of type int"):
        make(3)
