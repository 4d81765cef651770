"""A user's data files: .npz with splits, .npy with training rows only."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pvae.data.archives import UNREADABLE, refuse_bombs
from pvae.data.conversion import Arrays
from pvae.data.downloads import DamagedFileError

__all__ = ["MORE", "SPLITS", "SUFFIXES", "read_file"]

SPLITS = ("train", "valid", "test")
SUFFIXES = (".npz", ".npy")


MORE = ("lengths",)  # further arguments of the programs
COLUMNS = ("kind", "classes")


def read_file(path: Path) -> tuple[Arrays, int | None]:
    """Read the arrays of a user's file, and the grey levels of uint8 splits.

    Splits are uint8 (with two levels if they contain only 0 and 1, and 256 otherwise) or float32;
    those of a table, which has an array "kind", are float32.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path} (looked for from {Path.cwd()})")
    found = _read(path)
    if "data" in found and "train" not in found:
        found["train"] = found.pop("data")
    if "train" not in found:
        raise ValueError(
            f"{path} has no array 'train'; its arrays are {sorted(found) or 'none'}: save it with "
            "np.savez(path, train=x, test=..., train_labels=...), of which only train is needed"
        )
    splits = {name: found[name] for name in SPLITS if name in found}
    levels: int | None
    if "kind" in found:
        levels = None
    elif all(_is_binary(array) for array in splits.values()):
        levels = 2
    elif all(array.dtype == np.uint8 for array in splits.values()):
        levels = 256
    else:
        _check_one_type(path, splits)
        levels = None
    arrays: Arrays = {
        name: array.astype(np.uint8 if levels else np.float32, copy=False)
        for name, array in splits.items()
    }
    kept = [f"{split}_{of}" for split in splits for of in ("labels", *MORE)]
    arrays |= {name: found[name] for name in (*kept, *COLUMNS) if name in found}
    return arrays, levels


def _read(path: Path) -> Arrays:
    further = [f"{split}_{of}" for split in SPLITS for of in ("labels", *MORE)]
    wanted = [*SPLITS, "data", *further, *COLUMNS]
    try:
        refuse_bombs(path)
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            arrays = {"train": loaded}
        else:
            with loaded:
                # Other arrays are not read; messages mention their names.
                arrays = {k: loaded[k] if k in wanted else np.empty(0) for k in loaded.files}
    except DamagedFileError:
        raise
    except UNREADABLE as error:
        raise DamagedFileError(
            f"{path} cannot be read ({error}): save arrays of numbers with np.savez or np.save; "
            "arrays of objects are rejected, since loading them would execute code"
        ) from error
    _check_numbers(path, ((k, a) for k, a in arrays.items() if k in wanted))
    return arrays


def _check_numbers(path: Path, arrays: Iterable[tuple[str, npt.NDArray[np.generic]]]) -> None:
    for name, array in arrays:
        if name == "kind":
            if array.dtype.kind != "U" or array.ndim != 1:
                raise ValueError(f"{path}: array 'kind' is of {array.dtype}, expected strings")
            continue
        whole = name == "classes" or name.endswith(("_labels", "_lengths"))
        if array.dtype.kind not in ("bui" if whole else "buif"):
            expected = "integers" if whole else "bool, integers or floats"
            raise ValueError(f"{path}: array {name!r} is of {array.dtype}, expected {expected}")


def _check_one_type(path: Path, splits: Arrays) -> None:
    # Grey levels 0 to 255 in one split and floats in another would have different scales.
    types = {name: str(array.dtype) for name, array in splits.items()}
    if "uint8" in types.values():
        raise ValueError(f"{path}: the splits are of different types, {types}: save them in one")


def _is_binary(array: npt.NDArray[np.generic]) -> bool:
    return bool(((array == 0) | (array == 1)).all())
