"""Rows of an .npy file that stay on disk."""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from pvae._seeds import named_seed
from pvae.data.archives import UNREADABLE
from pvae.data.downloads import DamagedFileError
from pvae.data.loaders import LoaderBatches
from pvae.data.shuffle import Shuffle

__all__ = ["FileBatches", "FileRows", "is_whole_file"]

_SAMPLES, _SAMPLE_BYTES = 64, 2**16  # what the fingerprint reads of a file


class FileRows(Dataset[Tensor]):
    """The rows of an .npy file, read when they are needed, for data larger than memory.

    `fit` takes it as data: memory then depends on the batch, not on the number of rows. An array of
    `np.load(path, mmap_mode="r")` is treated likewise.

    Args:
        path: an array of bool, integers or floats, in C order; its first dimension are the rows.

    Raises:
        DamagedFileError: if the file is no such array; a `ValueError`.

    Example:
        >>> import numpy as np, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(f"{folder}/x.npy", np.arange(12.0).reshape(4, 3))
        ...     rows = FileRows(f"{folder}/x.npy")
        ...     print(len(rows), rows[2], rows[[3, 0]].shape)
        4 tensor([6., 7., 8.]) torch.Size([2, 3])
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            array = np.load(self.path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError:
            raise
        except UNREADABLE as error:
            raise DamagedFileError(
                f"{self.path} cannot be read ({error}): save an array of numbers with np.save"
            ) from error
        if not isinstance(array, np.memmap) or array.ndim == 0 or array.dtype.kind not in "buif":
            raise DamagedFileError(
                f"{self.path} is no array of numbers with rows: save bool, integers or floats with "
                "np.save"
            )
        if not array.flags.c_contiguous:
            raise DamagedFileError(
                f"{self.path} is in Fortran order, in which a row is not in one place: save "
                "np.ascontiguousarray(x)"
            )
        self.shape: tuple[int, ...] = array.shape
        self.dtype = array.dtype
        self._start: int = array.offset
        self._bytes = int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize
        self._file: BinaryIO | None = None

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int | Sequence[int] | Tensor) -> Tensor:
        """A row, or several as one tensor; floats as float32."""
        several = not isinstance(index, int)
        numbers = np.atleast_1d(np.asarray(index, np.int64))
        if len(numbers) and not (numbers.min() >= 0 and numbers.max() < len(self)):
            raise IndexError(f"rows {index} of {len(self)}")
        found = self._read(numbers)
        rows = torch.from_numpy(found)
        return rows if several else rows[0]

    def _read(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.generic]:
        # Not by a memory map, of which large parts become resident when one row is read.
        parts = [self._at(self._start + self._bytes * n) for n in numbers.tolist()]
        content = bytearray().join(parts)
        if len(content) != len(numbers) * self._bytes:
            raise DamagedFileError(f"{self.path} is shorter than it was: bring the whole file back")
        found = np.frombuffer(content, self.dtype) if content else np.empty(0, self.dtype)
        return _as_torch(found.reshape(len(numbers), *self.shape[1:]))

    def _at(self, place: int) -> bytes:
        """The bytes of a row."""
        if self._file is None:
            self._file = self.path.open("rb", buffering=0)
        if hasattr(os, "pread"):  # processes that were forked have one position in the file
            return os.pread(self._file.fileno(), self._bytes, place)
        self._file.seek(place)
        return self._file.read(self._bytes)

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_file": None}

    def sha256(self) -> str:
        """A digest of the size and of parts of the file, in equal distances."""
        digest = hashlib.sha256(f"{self.shape} {self.dtype.str}".encode())
        with self.path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            for place in np.linspace(0, max(0, size - _SAMPLE_BYTES), _SAMPLES, dtype=np.int64):
                file.seek(int(place))
                digest.update(file.read(_SAMPLE_BYTES))
        return digest.hexdigest()


def is_whole_file(array: np.memmap[Any, Any]) -> bool:
    """Whether an array is the whole of an .npy file, as `np.load(path, mmap_mode="r")` returns."""
    name = str(array.filename)
    if not name.endswith(".npy") or not isinstance(array.base, mmap.mmap):
        return False
    return array.offset + array.nbytes == Path(name).stat().st_size and array.flags.c_contiguous


class FileBatches(LoaderBatches):
    """Batches of `FileRows`, in an order that depends on (seed, number of the epoch) alone."""

    def __init__(
        self, data: FileRows, batch_size: int, device: torch.device, *, seed: int, steps: int | None
    ) -> None:
        self._order = _Order(len(data), batch_size, seed)
        loader = DataLoader(
            data, batch_size=None, sampler=self._order, generator=torch.Generator(),
            pin_memory=device.type == "cuda",
        )  # fmt: skip
        super().__init__(loader, device, seed=seed, steps=steps)
        self._data = data
        self.rows, self.batch_size = len(data), batch_size

    @property
    def fingerprint(self) -> dict[str, object]:
        """Number and shape of the rows, and a digest of parts of the file."""
        shape = list(self._data.shape)
        return {"rows": shape[0], "shape": shape[1:], "sha256": self._data.sha256()}

    def row_numbers(self, number: int, first: int) -> Tensor | None:
        """Numbers of the rows of one batch, after `first` others."""
        turn, place = divmod(first, len(self._order))
        return torch.as_tensor(self._order.batch(number, turn, place))

    def epoch(self, number: int, skip: int = 0) -> Iterator[tuple[Tensor, ...]]:
        """The batches of an epoch, without the first `skip`, which are not read."""
        whole = self._steps is None
        self._order.start(number, skip if whole else 0)
        return super().epoch(number, 0 if whole else skip)


class _Order(Sampler[npt.NDArray[np.int64]]):
    """Row numbers of each batch of an epoch, which may have several passes."""

    def __init__(self, rows: int, batch_size: int, seed: int) -> None:
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self.start(0, 0)

    def start(self, number: int, first: int) -> None:
        """Begin an epoch, without its first batches."""
        self._number, self._first, self._passes = number, first, 0

    def __len__(self) -> int:
        return -(-self.rows // self.batch_size)

    def __iter__(self) -> Iterator[npt.NDArray[np.int64]]:
        number, turn, first = self._number, self._passes, self._first
        self._passes, self._first = turn + 1, 0
        for place in range(first, len(self)):
            yield self.batch(number, turn, place)

    def batch(self, number: int, turn: int, place: int) -> npt.NDArray[np.int64]:
        """Row numbers of one batch of a pass of an epoch."""
        shuffle = Shuffle(self.rows, named_seed(self.seed, f"shuffling, pass {turn}", number))
        start = place * self.batch_size
        return shuffle[np.arange(start, min(start + self.batch_size, self.rows))]


def _as_torch(array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    return array if array.dtype in (np.bool_, np.uint8) else array.astype(np.float32, copy=False)
