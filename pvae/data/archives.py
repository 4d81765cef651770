"""Archives (.npz) of named data sets, verified by checksums or converted from originals."""

from __future__ import annotations

import hashlib
import os
import struct
import tempfile
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from pvae._folders import cache_folder
from pvae.data.conversion import Arrays
from pvae.data.downloads import DamagedFileError, Original, find, obtain

__all__ = ["UNREADABLE", "checked_npz", "refuse_bombs"]

# What numpy and zipfile raise for damaged files and files of another kind.
UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    SyntaxError,  # of the header of an array, which is Python
    tokenize.TokenError,
    TypeError,
    OverflowError,
    KeyError,
)


def refuse_bombs(path: Path) -> None:
    """Refuse an archive whose arrays need more memory than this machine has.

    Raises:
        DamagedFileError: if they do.
    """
    if not zipfile.is_zipfile(path) or not hasattr(os, "sysconf"):
        return
    with zipfile.ZipFile(path) as archive:
        needed = sum(member.file_size for member in archive.infolist())
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > memory:
        raise DamagedFileError(
            f"{path} cannot be read: its arrays have {needed / 2**30:,.0f} GiB, and this machine "
            f"has {memory / 2**30:,.0f} GiB of memory"
        )


def checked_npz(
    path: str,
    digests: Mapping[str, str],
    originals: tuple[Original, ...] = (),
    convert: Callable[..., Arrays] | None = None,
) -> Arrays:
    """The arrays of an archive; a missing archive is first converted from the originals."""
    found = find(path)
    if found is None and convert is not None:
        files = [obtain(original) for original in originals]
        arrays = convert(*files)
        _check(", ".join(map(str, files)), arrays, digests)
        _save(cache_folder() / path, arrays)
        for file in files:
            if file.is_relative_to(cache_folder()):
                file.unlink(missing_ok=True)
    else:
        assert found is not None
        try:
            loaded = np.load(found, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                raise ValueError("a single array, no archive of them")
            with loaded as archive:
                arrays = {name: archive[name] for name in digests if name in archive}
        except UNREADABLE as error:
            raise DamagedFileError(
                f"{found} cannot be read ({error}): it is damaged, or not an .npz; replace or "
                "delete it"
            ) from error
        _check(str(found), arrays, digests)
    return {name: array for name, array in arrays.items() if name in digests}


def _check(origin: str, arrays: Arrays, digests: Mapping[str, str]) -> None:
    for name, expected in digests.items():
        if name not in arrays and not name.endswith("_labels"):
            raise DamagedFileError(
                f"{origin} has no array {name!r}: replace the file, or delete it to convert it "
                "again"
            )
        if name in arrays and hashlib.sha256(arrays[name].tobytes()).hexdigest() != expected:
            raise DamagedFileError(
                f"{origin}: the array {name!r} does not have sha256 {expected}, so the data "
                "are others, or damaged: replace the file, or delete it to convert it again"
            )


def _save(path: Path, arrays: Arrays) -> None:
    """Write an archive atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # reads **kwds as bool
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)
