"""The run folder: config, checkpoints, metrics, summary and figures of one training."""

import hashlib
import io
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pvae.training.files import (
    DamagedError,
    read_json,
    read_tensors,
    write,
    write_json,
    write_tensors,
)
from pvae.training.lock import Lock

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Run"]

_MARK = ".pvae-run"  # in every run folder; locked during a training
_FILES = ("config.json", "example.pt", "metrics.jsonl", "summary.json")


class Run:
    """A run folder.

    Every file has a checksum, except figures and metrics.jsonl, a log whose checksum is kept with
    the checkpoint. Nothing is written through a link, and nothing removed that no run wrote.

    Args:
        path: the folder; made by `start`.
        keep: number of checkpoints that are kept, at least 1.

    Attributes:
        notes: what was found to be damaged, and what was done about it.
    """

    def __init__(self, path: str | Path, *, keep: int = 1) -> None:
        if keep < 1:
            raise ValueError(f"keep is {keep}: give at least 1 checkpoint to keep")
        self.path = Path(path)
        self.keep = keep
        self.notes: list[str] = []
        self._damaged: list[Path] = []
        self._lock = Lock(self.path / _MARK)

    @property
    def exists(self) -> bool:
        """Whether the folder contains a run."""
        return (self.path / "config.json").exists()

    @property
    def started(self) -> bool:
        """Whether the run has a checkpoint to go on from."""
        return bool(self._checkpoints())

    def start(
        self, config: Mapping[str, object], example: Sequence[Tensor], overwrite: bool
    ) -> None:
        """Start a new run in the folder, and lock it.

        Raises:
            ValueError: if the folder contains something else, or a run and `overwrite` is not set.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"{self.path} is a file: give a folder for the run")
        mine = (self.path / _MARK).is_file()
        if not mine and self.path.exists() and any(self.path.iterdir()):
            raise ValueError(
                f"{self.path} contains files and is no run: give a new folder, or an empty one"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        self.lock()
        if self.started and not overwrite:
            self.release()
            raise ValueError(
                f"{self.path} already contains a run: resume it (resume=True, --resume), replace "
                "it (overwrite=True, --overwrite), or choose another folder"
            )
        self._remove()
        write_json(self.path / "config.json", config)
        write_tensors(self.path / "example.pt", {"batch": [part.cpu() for part in example]})

    def lock(self) -> None:
        """Keep other trainings out of the folder until `release`, or the end of the process.

        Raises:
            ValueError: if another training is in it.
        """
        self._lock.acquire()

    def release(self) -> None:
        """Let other trainings in."""
        self._lock.release()

    def config(self) -> dict[str, Any]:
        """The options that the run was started with."""
        return self._read("config.json")

    def update_config(self, config: Mapping[str, object]) -> None:
        """Update the options that a resumed run may change."""
        write_json(self.path / "config.json", {**self.config(), **config})

    def summary(self) -> dict[str, Any] | None:
        """The outcome: the contents of summary.json; None as long as there is no such file."""
        return self._read("summary.json") if (self.path / "summary.json").exists() else None

    def write_summary(self, summary: Mapping[str, object]) -> None:
        """Write or replace summary.json."""
        write_json(self.path / "summary.json", summary)

    def example(self, device: torch.device | str = "cpu") -> tuple[Tensor, ...]:
        """The first training batch, to run the programs once."""
        return tuple(read_tensors(self.path / "example.pt", device)["batch"])

    def save(self, state: Mapping[str, Any]) -> None:
        """Write a checkpoint, after the metrics of its epoch, and keep some of those before it."""
        for path in self._damaged:  # it must not take the place of the good one before it
            path.unlink(missing_ok=True)
        self._damaged = []
        names = self._names()
        for older, newer in reversed(list(zip(names[1:], names, strict=False))):
            if (self.path / newer).exists():
                _copy(self.path / newer, self.path / older)
        digest = _digest(self.path / "metrics.jsonl")
        write_tensors(self.path / names[0], {**state, "metrics": digest})

    def restore(self, device: torch.device | str = "cpu") -> dict[str, Any]:
        """The newest state that is not damaged; a note says if it is not the newest one.

        Raises:
            ValueError: if there is none.
        """
        found = self._checkpoints()
        if not found:
            raise ValueError(
                f"{self.path / 'checkpoint.pt'} does not exist: the run has not started to train"
            )
        for path in found:
            try:
                state = read_tensors(path, device)
            except DamagedError as error:
                if path == found[-1]:
                    raise
                self._damaged.append(path)
                self.notes.append(f"{error}; the checkpoint before it is used")
            else:
                known = state.pop("metrics", None)
                if known is not None and _digest(self.path / "metrics.jsonl", known[0]) != known:
                    self.notes.append(
                        f"{self.path / 'metrics.jsonl'} is damaged, or was changed after it was "
                        "written"
                    )
                return state
        raise AssertionError

    def history(self, epochs: int | None = None) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl, one per epoch; of an epoch that was repeated the last one.

        Args:
            epochs: leave out rows of later epochs.
        """
        rows: list[dict[str, Any]] = []
        unreadable = 0
        path = self.path / "metrics.jsonl"
        for line in path.read_bytes().splitlines() if path.is_file() else []:
            try:
                row = json.loads(line)
                epoch = row["epoch"] = int(row["epoch"])
                row["train_loss"], row["seconds"] = float(row["train_loss"]), float(row["seconds"])
            except (ValueError, TypeError, KeyError, OverflowError):
                unreadable += bool(line.strip())
                continue
            while rows and rows[-1]["epoch"] >= epoch:
                rows.pop()  # a resumed training repeated it
            rows.append(row)
        if unreadable:
            self.notes.append(f"{path}: {unreadable} lines cannot be read, and are left out")
        return [row for row in rows if epochs is None or row["epoch"] <= epochs]

    def add_metrics(self, row: Mapping[str, object]) -> None:
        """Append one epoch, in a line of its own even if the last one was cut off."""
        path = self.path / "metrics.jsonl"
        if path.is_symlink():
            raise ValueError(f"{path} is a link: metrics are not written into other files")
        with path.open("a+b") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read() != b"\n":
                    file.write(b"\n")
            file.write(f"{json.dumps(row)}\n".encode())

    def save_figure(self, name: str, figure: "Figure") -> Path:
        """Write a picture, figures/NAME.png, and return its path.

        Raises:
            ValueError: if `figures` is a link to another folder.
        """
        folder = self.path / "figures"
        if folder.is_symlink():
            raise ValueError(f"{folder} is a link: figures are not drawn into other folders")
        folder.mkdir(exist_ok=True)
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=150, format="png")
        write(folder / f"{name}.png", buffer.getvalue())
        return folder / f"{name}.png"

    def _remove(self) -> None:
        """Remove the files of the run before, and nothing else."""
        try:
            figures = (self.summary() or {}).get("figures", [])
        except ValueError:
            figures = []
        folder = self.path / "figures"
        for name in figures if not folder.is_symlink() else ():
            (folder / f"{Path(name).name}.png").unlink(missing_ok=True)
        for path in [*self._checkpoints(), *(self.path / name for name in _FILES)]:
            path.unlink(missing_ok=True)

    def _names(self) -> list[str]:
        return ["checkpoint.pt", *(f"checkpoint-{age}.pt" for age in range(1, self.keep))]

    def _checkpoints(self) -> list[Path]:
        """All checkpoints, the newest first."""
        older = [path for path in self.path.glob("checkpoint-*.pt") if path.stem[11:].isdecimal()]
        found = [self.path / "checkpoint.pt", *sorted(older, key=lambda p: int(p.stem[11:]))]
        return [path for path in found if path.exists()]

    def _read(self, name: str) -> dict[str, Any]:
        if not self.exists:
            known = "" if self.path.exists() else " (the folder does not exist)"
            raise ValueError(f"{self.path} is not a run folder{known}")
        return read_json(self.path / name)


def _copy(path: Path, other: Path) -> None:
    """Give a file a second name, which replaces what had it."""
    temporary = other.with_name(f"{other.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(path, temporary)
    except OSError:  # no links on this file system
        shutil.copyfile(path, temporary)
    temporary.replace(other)


def _digest(path: Path, size: int | None = None) -> list[Any]:
    """The number of bytes of a file, or of its beginning, and their digest."""
    content = path.read_bytes()[:size] if path.is_file() else b""
    return [len(content), hashlib.sha256(content).hexdigest()]
