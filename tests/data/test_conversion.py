"""Conversions of published formats, compared with exact arithmetic and the real files."""

from __future__ import annotations

import gzip
import io
import os
import zipfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pvae.data.conversion import amat, area_28x28, idx, omniglot, omniglot_splits, stratified

REAL = os.environ.get("PVAE_DATA")
needs_data = pytest.mark.skipif(not REAL, reason="PVAE_DATA is not set: no real data sets here")


def test_idx(tmp_path: Path) -> None:
    x = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    header = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in x.shape)
    (tmp_path / "x.gz").write_bytes(gzip.compress(header + x.tobytes()))
    assert np.array_equal(idx(tmp_path / "x.gz"), x)


def test_amat(tmp_path: Path) -> None:
    bits = np.random.default_rng(0).integers(0, 2, (3, 784), np.uint8)
    lines = [" ".join(map(str, row)) for row in bits.tolist()]
    (tmp_path / "x.amat").write_text("\n".join(lines) + "\n")
    assert np.array_equal(np.unpackbits(amat(tmp_path / "x.amat"), axis=1), bits)


def test_area_is_exact_rounded_mean() -> None:
    ink = np.random.default_rng(0).integers(0, 2, (1, 105, 105), np.uint8)
    made = area_28x28(ink)[0]
    side = Fraction(15, 4)

    def overlap(cell: int, pixel: int) -> Fraction:
        start, end = max(cell * side, Fraction(pixel)), min((cell + 1) * side, Fraction(pixel + 1))
        return max(Fraction(0), end - start)

    for row, column in ((0, 0), (5, 27), (13, 8), (27, 27)):
        rows = range(int(row * side), min(int((row + 1) * side) + 1, 105))
        columns = range(int(column * side), min(int((column + 1) * side) + 1, 105))
        mean = sum(
            overlap(row, i) * overlap(column, j) * int(ink[0, i, j]) for i in rows for j in columns
        ) / (side * side)
        assert made[row, column] == round(255 * mean)
    assert (area_28x28(np.ones((1, 105, 105), np.uint8)) == 255).all()


def test_omniglot_archives(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    drawings = {(c, d): rng.integers(0, 2, (105, 105)) for c in (1, 2) for d in range(1, 21)}
    # Unsorted, with the first character in the later alphabet, and with entries for folders.
    for name, character, alphabet in (("background", 2, "Armenian"), ("evaluation", 1, "Keble")):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            archive.writestr(f"images_{name}/{alphabet}/", "")
            for drawer in range(20, 0, -1):
                png = io.BytesIO()
                Image.fromarray(drawings[character, drawer] == 0).save(png, "png")
                path = f"images_{name}/{alphabet}/character01/{character:04d}_{drawer:02d}.png"
                archive.writestr(path, png.getvalue())
    made = omniglot(tmp_path / "background.zip", tmp_path / "evaluation.zip")
    assert made["alphabet_names"].tolist() == ["Armenian", "Keble"]
    assert made["train_alphabet"].tolist() == [1] * 15 + [0] * 15
    assert made["test_character"].tolist() == [1] * 5 + [2] * 5
    assert made["test_drawer"].tolist() == [16, 17, 18, 19, 20] * 2
    expected = area_28x28(np.stack([drawings[1, d] for d in range(1, 16)]).astype(np.uint8))
    assert np.array_equal(made["train"][:15], expected)


def test_stratified_partition() -> None:
    classes = np.random.default_rng(0).integers(0, 3, 500)
    splits = stratified(classes)
    assert sorted(np.concatenate(splits).tolist()) == list(range(500))
    for which in range(3):
        of_class = [int((classes[split] == which).sum()) for split in splits]
        assert of_class[0] / sum(of_class) == pytest.approx(0.8, abs=0.02)
        assert of_class[2] / sum(of_class) == pytest.approx(0.1, abs=0.02)


@needs_data
def test_omniglot_matches_published_28x28() -> None:
    folder = Path(REAL or "") / "omniglot"
    source = np.load(folder / "omniglot_105x105_bits.npz")
    made = omniglot_splits(
        np.unpackbits(source["images"], axis=1, count=105 * 105).reshape(-1, 105, 105),
        alphabet=source["alphabet"],
        character=source["character"],
        drawer=source["drawer"],
        alphabet_names=source["alphabet_names"],
    )
    expected = np.load(folder / "omniglot_28x28_area.npz")
    assert sorted(made) == sorted(expected.files)
    for name in made:
        assert made[name].dtype == expected[name].dtype
        assert np.array_equal(made[name], expected[name]), name
