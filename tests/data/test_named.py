"""The public names of `pvae.data`, and the named sets."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from pvae import data

REAL = os.environ.get("PVAE_DATA")
needs_data = pytest.mark.skipif(not REAL, reason="PVAE_DATA is not set: no real data sets here")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PVAE_CACHE", str(tmp_path / "cache"))


def test_public_names() -> None:
    assert sorted(data.__all__) == [
        "Batches",
        "DamagedFileError",
        "DownloadError",
        "FileRows",
        "Rows",
        "Splits",
        "batches",
        "load",
        "names",
        "rows",
    ]
    assert data.names == (
        "digits",
        "mnist",
        "fashion-mnist",
        "binarized-mnist",
        "omniglot",
        "frey-faces",
        "jsb-chorales",
        "adult",
        "wine",
        "breast",
    )


def test_no_submodule_has_a_public_name() -> None:
    files = {path.stem for path in Path(data.__file__).parent.glob("*.py")}
    assert not files & set(data.__all__)


def test_digits_splits_stratified_and_disjoint() -> None:
    digits = data.load("digits")
    assert digits.valid is not None
    assert digits.test is not None
    splits = [digits.train, digits.valid, digits.test]
    sizes = [len(split) for split in splits]
    assert sum(sizes) == 1797
    assert sizes[0] / 1797 == pytest.approx(0.8, abs=0.01)
    for split in splits:
        assert split.labels is not None
        counts = torch.bincount(split.labels, minlength=10)
        assert counts.max() - counts.min() <= 0.15 * counts.max()
        assert len(set(split.labels[:20].tolist())) > 5, "rows must come in mixed order"
    from sklearn.datasets import load_digits

    everything = torch.cat([split.first(2000)[0] for split in splits]).reshape(1797, 64)
    expected = torch.tensor(load_digits().images.reshape(1797, 64) / 16, dtype=torch.float32)
    assert torch.equal(
        torch.tensor(sorted(everything.tolist())), torch.tensor(sorted(expected.tolist()))
    )
    assert (digits.levels, digits.x_shape, digits.binarize) == (17, (8, 8), "none")


def test_digits_reproducible() -> None:
    first, second = data.load("digits"), data.load("digits")
    assert torch.equal(first.train.first(2000)[0], second.train.first(2000)[0])


def test_labels_as_last_argument() -> None:
    assert len(data.load("digits").train.first(3)) == 1
    x, y = data.load("digits", labels=True).train.first(3)
    assert (x.shape, y.shape, y.dtype) == ((3, 8, 8), (3,), torch.int64)


def test_held_out_rows_binarized_once() -> None:
    one = data.load("digits", binarize="dynamic", seed=1)
    two = data.load("digits", binarize="dynamic", seed=2)
    assert (one.binarize, one.levels) == ("dynamic", 2)
    for split in ("valid", "test"):
        of_one, of_two = getattr(one, split), getattr(two, split)
        assert of_one.binarize == "static"
        (drawn,) = of_one.first(1000)
        assert torch.equal(drawn, of_two.first(1000)[0])
        (again,) = next(of_one.batches(1000, generator=torch.Generator().manual_seed(3)))
        assert drawn.sum() == again.sum()
    (a,), (b,) = (s.train.first(100) for s in (one, two))
    assert not torch.equal(a, b)


def test_valid_is_the_last_training_rows(tmp_path: Path) -> None:
    x = np.arange(20, dtype=np.float32).reshape(10, 2)
    np.savez(tmp_path / "x.npz", train=x, train_labels=np.arange(10))
    loaded = data.load(tmp_path / "x.npz", valid=3)
    assert loaded.valid is not None
    assert torch.equal(loaded.valid.first(9)[0], torch.tensor(x[-3:]))
    assert loaded.valid.labels is not None
    assert loaded.valid.labels.tolist() == [7, 8, 9]
    assert len(loaded.train) == 7
    for valid in (-1, 10):
        with pytest.raises(ValueError, match="give 1 to 9"):
            data.load(tmp_path / "x.npz", valid=valid)
    with pytest.raises(ValueError, match="has a validation split already"):
        data.load("digits", valid=10)
    with pytest.raises(ValueError, match="sorted by class"):
        data.load("omniglot", valid=10)


@pytest.mark.parametrize(
    ("name", "near"),
    [("mnits", "'mnist'"), ("fashion_mnist", "'fashion-mnist'"), ("Digits", "'digits'")],
)
def test_unknown_name_raises(name: str, near: str) -> None:
    with pytest.raises(ValueError, match="unknown data set") as caught:
        data.load(name)
    assert near in str(caught.value)
    assert "frey-faces" in str(caught.value)
    assert ".npz" in str(caught.value)


def test_frey_faces_never_downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PVAE_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match="no license") as caught:
        data.load("frey-faces")
    assert "$PVAE_DATA/frey-faces/frey_faces.npz" in str(caught.value)
    assert not (tmp_path / "cache").exists()


def test_missing_data_folder_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PVAE_DATA", "/no/such/folder")
    with pytest.raises(FileNotFoundError, match="PVAE_DATA is /no/such/folder"):
        data.load("mnist")


@pytest.mark.parametrize("content", ["truncated", "foreign", "bare", "lacking"])
def test_damaged_npz_raises(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str) -> None:
    monkeypatch.setenv("PVAE_DATA", str(tmp_path))
    path = tmp_path / "frey-faces" / "frey_faces.npz"
    path.parent.mkdir()
    with path.open("wb") as file:
        if content == "bare":
            np.save(file, np.zeros((1965, 28, 20), np.uint8))
        else:
            zeros = np.zeros((1965, 28, 20), np.uint8)
            if content == "lacking":
                np.savez(file, other=zeros)
            else:
                np.savez(file, faces=zeros)
    if content == "truncated":
        path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(data.DamagedFileError, match=r"frey_faces\.npz.*replace"):
        data.load("frey-faces")


@needs_data
@pytest.mark.parametrize(
    ("name", "shape", "sizes", "mean"),
    [
        ("mnist", (28, 28), (60000, None, 10000), 0.13066),
        ("fashion-mnist", (28, 28), (60000, None, 10000), 0.28604),
        ("binarized-mnist", (28, 28), (50000, 10000, 10000), 0.130562),
        ("omniglot", (28, 28), (24345, None, 8115), 0.0808),
        ("frey-faces", (28, 20), (1565, 200, 200), None),
    ],
)
def test_real_sets(
    name: str, shape: tuple[int, ...], sizes: tuple[int | None, ...], mean: float | None
) -> None:
    loaded = data.load(name)
    assert loaded.x_shape == shape
    splits = (loaded.train, loaded.valid, loaded.test)
    assert tuple(None if split is None else len(split) for split in splits) == sizes
    assert loaded.levels == (2 if name == "binarized-mnist" else 256)
    if mean is not None:
        (x,) = loaded.train.first(60000)
        assert x.mean(dtype=torch.float64).item() == pytest.approx(mean, abs=6e-5)
    if name == "frey-faces":
        with pytest.raises(ValueError, match="frey-faces, split 'train': the data have no labels"):
            data.load(name, labels=True)
    else:
        assert len(data.load(name, labels=True).train.first(2)) == 2


@needs_data
def test_real_labels_and_validation() -> None:
    mnist = data.load("mnist", valid=10_000)
    assert mnist.valid is not None
    assert (len(mnist.train), len(mnist.valid)) == (50_000, 10_000)
    assert mnist.train.labels is not None
    assert mnist.valid.labels is not None
    both = torch.cat([mnist.train.labels, mnist.valid.labels])
    # The label counts of the original files.
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert torch.bincount(both).tolist() == counts


@needs_data
def test_binarize_of_binary_data_raises() -> None:
    with pytest.raises(ValueError, match="hold only 0 and 1, so binarize is not needed"):
        data.load("binarized-mnist", binarize="dynamic")
