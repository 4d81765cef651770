"""The run folder: config, checkpoint, metrics, summary and figures of one training."""

import json
import os
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

__all__ = ["Run", "load_checkpoint", "save_checkpoint"]

_FILES = ("config.json", "checkpoint.pt", "example.pt", "metrics.jsonl", "summary.json")


class Run:
    """A run folder.

    Args:
        path: the folder; made by `start`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def exists(self) -> bool:
        """Whether the folder contains a run."""
        return any((self.path / name).exists() for name in ("config.json", "checkpoint.pt"))

    @property
    def checkpoint(self) -> Path:
        """The file with the training state after the last complete epoch."""
        return self.path / "checkpoint.pt"

    @property
    def figures(self) -> Path:
        """The folder of figures, created on first use."""
        folder = self.path / "figures"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def start(
        self, config: Mapping[str, object], example: Sequence[Tensor], overwrite: bool
    ) -> None:
        """Start a new run in the folder.

        Raises:
            ValueError: if the folder contains a run, and `overwrite` is not set.
        """
        if self.exists and not overwrite:
            raise ValueError(
                f"{self.path} already contains a run: resume it (resume=True, --resume), replace "
                "it (overwrite=True, --overwrite), or choose another folder"
            )
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"{self.path} is a file: give a folder for the run")
        self.path.mkdir(parents=True, exist_ok=True)
        for name in _FILES:
            (self.path / name).unlink(missing_ok=True)
        for figure in (self.path / "figures").glob("*.png"):
            figure.unlink()
        self._write_json("config.json", config)
        save_checkpoint(self.path / "example.pt", {"batch": [part.cpu() for part in example]})

    def config(self) -> dict[str, Any]:
        """The options that the run was started with."""
        return self._read_json("config.json")

    def update_config(self, config: Mapping[str, object]) -> None:
        """Update the options that a resumed run may change."""
        self._write_json("config.json", {**self.config(), **config})

    def summary(self) -> dict[str, Any]:
        """The outcome: the contents of summary.json."""
        return self._read_json("summary.json")

    def example(self, device: torch.device | str = "cpu") -> tuple[Tensor, ...]:
        """The first training batch, to run the programs once."""
        return tuple(load_checkpoint(self.path / "example.pt", device)["batch"])

    def history(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl, one per epoch."""
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_text().splitlines()]

    def keep_history(self, epochs: int) -> list[dict[str, Any]]:
        """Drop metrics after an epoch, since a crash may occur between them and the checkpoint."""
        kept = self.history()[:epochs]
        (self.path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
        return kept

    def add_metrics(self, row: Mapping[str, object]) -> None:
        """Append one epoch."""
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")

    def write_summary(self, summary: Mapping[str, object]) -> None:
        """Write or replace summary.json."""
        self._write_json("summary.json", summary)

    def _write_json(self, name: str, value: Mapping[str, object]) -> None:
        temporary = self.path / f"{name}.tmp"
        temporary.write_text(json.dumps(value, indent=2) + "\n")
        temporary.replace(self.path / name)

    def _read_json(self, name: str) -> dict[str, Any]:
        path = self.path / name
        if not path.exists():
            known = "" if self.path.exists() else " (the folder does not exist)"
            raise ValueError(f"{self.path} is not a run folder: it has no {name}{known}")
        return cast(dict[str, Any], json.loads(path.read_text()))


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write tensors and plain values atomically: a crash leaves the old file or the new one."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        torch.save(dict(state), file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read what `save_checkpoint` wrote, without executing pickled code.

    Raises:
        ValueError: if the file is missing or damaged, or contains more than tensors and plain
            values.
    """
    if not path.exists():
        raise ValueError(f"{path} does not exist: the run has not finished its first epoch")
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"{path} cannot be read: it is damaged, or contains more than tensors and plain values "
            f"({str(error).splitlines()[0]})"
        ) from error
    return cast(dict[str, Any], state)
