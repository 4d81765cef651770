"""Training state in a file: written atomically, read without executing anything."""

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch

__all__ = ["load_checkpoint", "save_checkpoint"]


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write tensors and plain values; a crash leaves the old file or the new one, never a half."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        torch.save(dict(state), file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read what `save_checkpoint` wrote; pickled code is refused, not run.

    Raises:
        ValueError: the file is missing, damaged, or holds more than tensors and plain values.
    """
    if not path.exists():
        raise ValueError(f"{path} does not exist: the run has not finished its first epoch")
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"{path} cannot be read: it is damaged, or holds more than tensors and plain values "
            f"({str(error).splitlines()[0]})"
        ) from error
    return cast(dict[str, Any], state)
