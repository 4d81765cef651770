"""Convert published formats of data sets to arrays."""

from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Arrays", "amat", "area_28x28", "idx", "omniglot", "omniglot_splits", "stratified"]

Arrays: TypeAlias = dict[str, npt.NDArray[np.generic]]
UInt8: TypeAlias = npt.NDArray[np.uint8]


def idx(path: Path) -> UInt8:
    """A gzipped IDX file of uint8: two bytes 0, type, rank, big-endian sizes, values."""
    content = gzip.decompress(path.read_bytes())
    rank = content[3]
    shape = np.frombuffer(content, ">i4", rank, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)


def amat(path: Path) -> UInt8:
    """Binarized MNIST as text, a row of 784 digits with spaces between: (N, 98), bits packed."""
    characters = np.fromfile(path, np.uint8).reshape(-1, 2 * 784)[:, ::2]
    return np.packbits(characters - ord("0"), axis=1)


def omniglot(background: Path, evaluation: Path) -> Arrays:
    """The two archives of OMNIGLOT as 28x28 grey arrays, by `omniglot_splits`."""
    from matplotlib.image import imread

    drawings = []
    for path in (background, evaluation):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if not name.endswith(".png") or name.startswith("__MACOSX"):
                    continue
                # images_background/Korean/character01/0643_01.png
                alphabet, _, file = name.split("/")[-3:]
                character, drawer = file.removesuffix(".png").split("_")
                png = io.BytesIO(archive.read(name))
                ink = imread(png, format="png") < 0.5  # drawn in black on white
                drawings.append((int(character), int(drawer), alphabet, ink))
    drawings.sort(key=lambda drawing: drawing[:2])
    characters, drawers, names, ink_of_all = zip(*drawings, strict=True)
    alphabet_names, alphabets = np.unique(names, return_inverse=True)
    return omniglot_splits(
        np.stack(ink_of_all),
        alphabet=alphabets.astype(np.uint8),
        character=np.array(characters, np.uint16),
        drawer=np.array(drawers, np.uint8),
        alphabet_names=alphabet_names,
    )


def omniglot_splits(
    ink: npt.NDArray[np.bool_] | UInt8,
    *,
    alphabet: UInt8,
    character: npt.NDArray[np.uint16],
    drawer: UInt8,
    alphabet_names: npt.NDArray[np.str_],
) -> Arrays:
    """Drawers 1 to 15 of every character are for training, 16 to 20 for testing."""
    images = area_28x28(ink)
    arrays: Arrays = {"alphabet_names": alphabet_names}
    for split, chosen in (("train", drawer <= 15), ("test", drawer > 15)):
        arrays[split] = images[chosen]
        arrays[f"{split}_alphabet"] = alphabet[chosen]
        arrays[f"{split}_character"] = character[chosen]
        arrays[f"{split}_drawer"] = drawer[chosen]
    return arrays


def area_28x28(ink: npt.NDArray[np.bool_] | UInt8) -> UInt8:
    """The exact mean of the 3.75 x 3.75 pixels under each of 28 x 28 cells, times 255, rounded.

    Args:
        ink: (N, 105, 105), 0 or 1.
    """
    # In quarters of a pixel, a cell is 15 long and a pixel 4, so overlaps are integers, and the sum
    # of a cell is one of 0, ..., 225, which float32 represents exactly.
    cell, pixel = 15 * np.arange(28)[:, None], 4 * np.arange(105)[None, :]
    overlap = np.minimum(cell + 15, pixel + 4) - np.maximum(cell, pixel)
    weights = np.clip(overlap, 0, None).astype(np.float32)
    sums = [weights @ part.astype(np.float32) @ weights.T for part in _parts(ink)]
    # 255 / 225 = 17 / 15, which takes no integer to a half, so rounding has no ties.
    return ((34 * np.concatenate(sums).astype(np.int64) + 15) // 30).astype(np.uint8)


def stratified(classes: npt.NDArray[np.integer]) -> tuple[npt.NDArray[np.intp], ...]:
    """Row numbers of a fixed split in 80 / 10 / 10 percent, of every class, each in mixed order."""
    # RandomState, as its stream is the same in every version of numpy.
    order = np.random.RandomState(0).permutation(len(classes))
    turn = np.empty(len(classes), np.intp)
    for which in np.unique(classes):
        mine = order[classes[order] == which]
        turn[mine] = np.arange(len(mine)) % 10
    return order[turn[order] < 8], order[turn[order] == 8], order[turn[order] == 9]


def _parts(ink: npt.NDArray[np.bool_] | UInt8) -> list[npt.NDArray[np.bool_] | UInt8]:
    return [ink[start : start + 1024] for start in range(0, len(ink), 1024)]
