"""Files of a run: written whole or not at all, with a checksum that every reading verifies."""

import contextlib
import hashlib
import io
import json
import os
import re
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch

__all__ = ["DamagedError", "read_json", "read_tensors", "write", "write_json", "write_tensors"]

_EMPTY = "0" * 64  # in the place of a digest, while it is computed
_LAST_ENTRY = re.compile(r'"sha256": "([0-9a-f]{64})"\n}\n\Z')


class DamagedError(ValueError):
    """A file of a run that is not what was written."""


def write(path: Path, *parts: bytes | memoryview) -> None:
    """Write a file whole or not at all, through no link: a crash leaves the old or the new one.

    Args:
        path: the file; a link of that name is replaced.
        *parts: all of it, one after the other.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    made = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        with os.fdopen(made, "wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_json(path: Path, values: Mapping[str, object]) -> None:
    """Write a mapping as JSON, whose last entry is the digest of the rest."""
    text = json.dumps({**values, "sha256": _EMPTY}, indent=2) + "\n"
    digest = hashlib.sha256(text.encode()).hexdigest()
    write(path, f'{text[: -len(_EMPTY) - 4]}{digest}"\n}}\n'.encode())


def read_json(path: Path) -> dict[str, Any]:
    """Read what `write_json` wrote.

    Raises:
        DamagedError: if the file is not what was written.
        ValueError: if there is no such file, or it cannot be read.
    """
    try:
        text = _read(path).decode()
    except UnicodeDecodeError as error:
        raise _damaged(path, "it is no text") from error
    last = _LAST_ENTRY.search(text)
    if last is None:
        raise _damaged(path, "its end is missing")
    rest = f"{text[: last.start(1)]}{_EMPTY}{text[last.end(1) :]}"
    if hashlib.sha256(rest.encode()).hexdigest() != last[1]:
        raise _damaged(path, "its checksum is that of other contents")
    values = cast(dict[str, Any], json.loads(text))
    del values["sha256"]
    return values


def write_tensors(path: Path, state: Mapping[str, Any]) -> None:
    """Write tensors and plain values as torch does, with their digest as the archive's comment."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.comment = _EMPTY.encode()
    content = buffer.getbuffer()[: -len(_EMPTY)]
    write(path, content, hashlib.sha256(content).hexdigest().encode())


def read_tensors(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read what `write_tensors` wrote, without executing pickled code.

    Raises:
        DamagedError: if the file is not what was written.
        ValueError: if there is no such file, it cannot be read, or has more than tensors and plain
            values.
    """
    content = _read(path)
    digest = hashlib.sha256(memoryview(content)[: -len(_EMPTY)]).hexdigest()
    if digest.encode() != content[-len(_EMPTY) :]:
        raise _damaged(path, "its checksum is that of other contents")
    try:
        state = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    except Exception as error:  # whatever an archive that someone else made may raise
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"{path} cannot be loaded: it has more than tensors and plain values ({reason})"
        ) from error
    if not isinstance(state, dict):
        raise ValueError(f"{path} cannot be loaded: it has no mapping of values")
    return state


def _read(path: Path) -> bytes:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError(f"{path} cannot be read: it is no ordinary file")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ValueError(f"{path} does not exist") from error
    except (OSError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise ValueError(f"{path} cannot be read: {reason}") from error


def _damaged(path: Path, reason: str) -> DamagedError:
    return DamagedError(f"{path} is damaged, or was changed after it was written: {reason}")


def _sync_folder(folder: Path) -> None:
    """Make the new name of a file last, where the system can do that for folders."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
