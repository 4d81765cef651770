"""Finding the files of a named set: in $PVAE_DATA, in the cache, or at a public mirror."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from pvae._folders import cache_folder

__all__ = ["DamagedFileError", "DownloadError", "Original", "find", "obtain"]

TIMEOUT = 30  # seconds without an answer, after which the next mirror is tried


class DownloadError(OSError):
    """No mirror provided the file; no partial file remains.

    Example:
        >>> try:
        ...     raise DownloadError("could not download mnist.gz (no mirror is known)")
        ... except OSError as error:
        ...     print(error)
        could not download mnist.gz (no mirror is known)
    """


class DamagedFileError(ValueError):
    """An existing file does not match its checksum or its format.

    Example:
        >>> import pathlib, pvae, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "mine.npz"
        ...     _ = path.write_bytes(b"not an archive")
        ...     try:
        ...         splits = pvae.data.load(path)
        ...     except DamagedFileError as error:
        ...         print("cannot be read" in str(error))
        True
    """


@dataclass(frozen=True)
class Original:
    """A published file.

    Args:
        path: relative to $PVAE_DATA and to the cache, "mnist/train-images-idx3-ubyte.gz".
        checksum: "sha256:..." or "md5:...".
        urls: mirrors, tried in turn.
    """

    path: str
    checksum: str
    urls: tuple[str, ...]


def data_folder() -> Path | None:
    """The folder $PVAE_DATA, or None if it is not set."""
    name = os.environ.get("PVAE_DATA")
    if not name:
        return None
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"PVAE_DATA is {name}, which is not a folder: correct or unset it")
    return folder


def find(path: str) -> Path | None:
    """The file under $PVAE_DATA or in the cache; None if there is none."""
    folders = [folder for folder in (data_folder(), cache_folder()) if folder is not None]
    return next((f / path for f in folders if (f / path).is_file()), None)


def places(path: str) -> str:
    """The paths at which a user can provide the file, in words."""
    folder = data_folder()
    at = f"{folder / path}" if folder else f"$PVAE_DATA/{path} (PVAE_DATA is not set)"
    return f"{at} or {cache_folder() / path}"


def obtain(original: Original) -> Path:
    """Find or download a file and verify its checksum.

    Raises:
        DamagedFileError: if the file exists with another checksum.
        DownloadError: if the file does not exist, and no mirror provided it intact.
    """
    found = find(original.path)
    if found is None:
        return _download(original)
    algorithm, expected = original.checksum.split(":")
    with found.open("rb") as file:
        got = hashlib.file_digest(file, algorithm).hexdigest()
    if got != expected:
        raise DamagedFileError(
            f"{found} has {algorithm} {got}, expected {expected}: it is damaged or another file; "
            "replace it, or delete it to have it downloaded"
        )
    return found


def _download(original: Original) -> Path:
    import pooch

    # pooch downloads to a temporary file, verifies the checksum, and renames.
    target = cache_folder() / original.path
    failures = []
    for url in original.urls:
        try:
            pooch.retrieve(
                url,
                known_hash=original.checksum,
                fname=target.name,
                path=target.parent,
                downloader=pooch.HTTPDownloader(progressbar=True, timeout=TIMEOUT),
            )
        except OSError as error:  # every error of requests, and of the disk
            failures.append(f"{url}: {_reason(error)}")
        except ValueError:  # raised by pooch if the checksum differs
            failures.append(f"{url}: sent another file, its checksum is not {original.checksum}")
        else:
            return target
    tried = "; ".join(failures) or "no mirror is known"
    raise DownloadError(
        f"could not download {target.name} ({tried}): try again with a network, "
        f"or put the file at {places(original.path)}"
    )


def _reason(error: OSError) -> str:
    # requests is a dependency of pooch, and slow to import.
    from requests import exceptions

    if isinstance(error, exceptions.Timeout):
        return f"no answer in {TIMEOUT} s"
    if isinstance(error, exceptions.ChunkedEncodingError):
        return "the connection ended early and the file is truncated"
    if isinstance(error, exceptions.ConnectionError):
        return "no connection; is there a network?"
    return f"{type(error).__name__}, {error}"
