"""The folder of one training: config, checkpoint, metrics, summary and figures."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from pvae.training.checkpoint import load_checkpoint, save_checkpoint

__all__ = ["Run"]

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
        """Whether the folder holds a run."""
        return any((self.path / name).exists() for name in ("config.json", "checkpoint.pt"))

    @property
    def checkpoint(self) -> Path:
        """Where the training state after the last whole epoch lies."""
        return self.path / "checkpoint.pt"

    @property
    def figures(self) -> Path:
        """The folder of figures, made if need be."""
        folder = self.path / "figures"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def start(
        self, config: Mapping[str, object], example: Sequence[Tensor], overwrite: bool
    ) -> None:
        """Begin a new run in the folder.

        Raises:
            ValueError: the folder holds a run already, and `overwrite` is not set.
        """
        if self.exists and not overwrite:
            raise ValueError(
                f"{self.path} already holds a run: resume it (resume=True, --resume), replace it "
                "(overwrite=True, --overwrite), or choose another folder"
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
        """What the run was started with."""
        return self._read_json("config.json")

    def update_config(self, config: Mapping[str, object]) -> None:
        """Replace what a longer run changes; what only its start knew stays."""
        self._write_json("config.json", {**self.config(), **config})

    def summary(self) -> dict[str, Any]:
        """What came out."""
        return self._read_json("summary.json")

    def example(self, device: torch.device | str = "cpu") -> tuple[Tensor, ...]:
        """The first training batch: enough to run the programs once."""
        return tuple(load_checkpoint(self.path / "example.pt", device)["batch"])

    def history(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl, one an epoch."""
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_text().splitlines()]

    def keep_history(self, epochs: int) -> list[dict[str, Any]]:
        """Drop metrics after an epoch: a crash may fall between them and the checkpoint."""
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
            known = "" if self.path.exists() else " (there is no such folder)"
            raise ValueError(f"{self.path} is no run folder: it has no {name}{known}")
        return cast(dict[str, Any], json.loads(path.read_text()))
