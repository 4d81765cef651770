"""The user's own data files."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from pvae.data import DamagedFileError, load


def test_splits_scales_and_labels(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    x = np.array([[0, 255], [51, 0], [0, 0]], np.uint8)
    # The test split contains only 0 and 1, but must be scaled like the other splits.
    np.savez(path, train=x, test=np.ones((1, 2), np.uint8), train_labels=[2, 1, 0], notes=["a"])
    loaded = load(path)
    assert loaded.test is not None
    assert loaded.valid is None
    assert torch.equal(loaded.train.first(3)[0], torch.tensor(x / 255, dtype=torch.float32))
    assert torch.equal(loaded.test.first(1)[0], torch.full((1, 2), 1 / 255))
    np.savez(tmp_path / "dark.npz", train=x // 255, test=x)
    assert load(tmp_path / "dark.npz").train.first(1)[0].tolist() == [[0.0, pytest.approx(1 / 255)]]
    assert loaded.train.labels is not None
    assert loaded.train.labels.tolist() == [2, 1, 0]
    assert loaded.levels == 256
    with pytest.raises(ValueError, match="split 'test': the data have no labels"):
        load(path, labels=True)


@pytest.mark.parametrize("dtype", [np.uint8, bool, np.int64, np.float64])
def test_binary_data_unscaled(tmp_path: Path, dtype: type) -> None:
    x: npt.NDArray[np.generic] = np.eye(4).reshape(4, 2, 2).astype(dtype)
    np.save(tmp_path / "x.npy", x)
    loaded = load(str(tmp_path / "x.npy"))
    (batch,) = loaded.train.first(4)
    assert (loaded.levels, loaded.x_shape, batch.dtype) == (2, (2, 2), torch.float32)
    assert np.array_equal(batch.numpy(), x.astype(np.float32))


@pytest.mark.parametrize("dtype", [np.int32, np.float16, np.float64])
def test_other_dtypes_unscaled(tmp_path: Path, dtype: type) -> None:
    np.savez(tmp_path / "x.npz", train=np.array([[-2, 300]], dtype))
    loaded = load(tmp_path / "x.npz")
    (batch,) = loaded.train.first(1)
    assert batch.tolist() == [[-2.0, 300.0]]
    assert (loaded.levels, batch.dtype) == (None, torch.float32)
    with pytest.raises(ValueError, match="x goes from -2 to 300"):
        load(tmp_path / "x.npz", binarize="static")


def test_binarize_of_binary_file_raises(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.eye(3))
    with pytest.raises(ValueError, match="binarize is not needed"):
        load(tmp_path / "x.npy", binarize="dynamic")


def test_missing_array_or_file_raises(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x_train=np.eye(3), y=np.arange(3))
    with pytest.raises(ValueError, match=r"no array 'train'; its arrays are \['x_train', 'y'\]"):
        load(tmp_path / "x.npz")
    with pytest.raises(FileNotFoundError, match=r"there is no file .*gone\.npz"):
        load(tmp_path / "gone.npz")
    (tmp_path / "x.csv").write_text("1,2")
    with pytest.raises(ValueError, match=r"x\.csv is neither \.npz nor \.npy"):
        load(tmp_path / "x.csv")


def test_inconsistent_arrays_raise(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    x = np.random.default_rng(0).random((4, 3))
    np.savez(path, train=x, test=x[:, :2])
    with pytest.raises(ValueError, match=r"rows of 'test' have shape \(2,\).*'train' \(3,\)"):
        load(path)
    np.savez(path, train=x, train_labels=np.arange(3))
    with pytest.raises(ValueError, match="split 'train': labels have shape"):
        load(path)
    np.savez(path, train=x, train_labels=x[:, 0])
    with pytest.raises(ValueError, match="'train_labels' is of float64, expected integers"):
        load(path)
    np.savez(path, train=x, valid=np.full((2, 3), 200, np.uint8))
    with pytest.raises(ValueError, match="of different types"):
        load(path)
    np.savez(path, train=np.array([["a", "b"]]))
    with pytest.raises(ValueError, match="'train' is of <U1, expected bool"):
        load(path)


def test_bad_rows_raise_with_split(tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((4, 3))
    bad = x.copy()
    bad[2, 1] = np.nan
    np.savez(tmp_path / "x.npz", train=x, valid=bad)
    with pytest.raises(ValueError, match=r"split 'valid': x has NaN.* counted from 0: 2;"):
        load(tmp_path / "x.npz")
    np.savez(tmp_path / "x.npz", train=x, test=x[:0])
    with pytest.raises(ValueError, match="split 'test': x is empty"):
        load(tmp_path / "x.npz")


class Bomb:
    """An object that records when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('a pickle was executed')",)


@pytest.mark.parametrize("suffix", [".npz", ".npy"])
def test_objects_never_unpickled(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    array = np.array([Bomb(), Bomb()], dtype=object)
    if suffix == ".npz":
        np.savez(path, train=array)
    else:
        np.save(path, array)
    with pytest.raises(DamagedFileError, match="arrays of objects are rejected"):
        load(path)


@pytest.mark.parametrize("suffix", [".npz", ".npy"])
def test_damaged_files_raise(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    (np.savez if suffix == ".npz" else np.save)(path, np.random.default_rng(0).random((50, 9)))
    whole = path.read_bytes()
    for damaged in (b"", b"no array at all", whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(DamagedFileError, match=f"x{suffix} cannot be read"):
            load(path)


HUGE = "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 784), }"


def test_arrays_larger_than_memory_raise(tmp_path: Path) -> None:
    header = f"{HUGE:117}\n".encode()
    array = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
    (tmp_path / "huge.npy").write_bytes(array)
    with pytest.raises(ValueError, match=r"huge.npy cannot be read \(Unable to allocate 2.79 PiB"):
        load(str(tmp_path / "huge.npy"))
    bomb = tmp_path / "bomb.npz"
    with zipfile.ZipFile(bomb, "w") as archive:
        archive.writestr("train.npy", array)
        archive.infolist()[0].file_size = 2**45  # as the directory of a bomb says
    with pytest.raises(ValueError, match=r"bomb.npz cannot be read: its arrays have 32,768 GiB"):
        load(str(bomb))
