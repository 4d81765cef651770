"""Log a training: progress bar, metrics.jsonl, checkpoint, TensorBoard, summary.json."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from tqdm import tqdm

from pvae.training.fingerprints import differences
from pvae.training.result import Fit
from pvae.training.run import Run

__all__ = ["RunLogger"]

# The options that determine a run's numbers; a resumed run may only be longer.
_FIXED = (
    "objective", "optimizer", "learning_rate", "batch_size", "steps_per_epoch", "warmup",
    "clip_norm", "accumulate", "ema", "precision", "seed",
)  # fmt: skip


class _Writer(Protocol):
    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None: ...
    def close(self) -> None: ...


class RunLogger:
    """Writes the run folder and TensorBoard's files, and shows the progress bar.

    Args:
        out: the run folder, or None.
        tensorboard: whether TensorBoard's files are written there too.
        progress: whether a progress bar is shown.
        keep: number of checkpoints that are kept.
    """

    def __init__(
        self, out: str | Path | None, *, tensorboard: bool, progress: bool, keep: int = 1
    ) -> None:
        if tensorboard and out is None:
            raise ValueError("tensorboard writes into the run folder: give out=")
        self.run = Run(out, keep=keep) if out is not None else None
        self.progress = progress
        self._writer = _tensorboard(self.run.path) if tensorboard and self.run is not None else None
        self._bar: tqdm[Any] | None = None

    def start(
        self,
        config: Mapping[str, object],
        example: Sequence[Tensor],
        device: torch.device | str,
        *,
        resume: bool,
        overwrite: bool,
        allow_changed: bool,
    ) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, list[Any]]] | None:
        """Start a run, or resume one and return its last state, its history and what changed.

        Raises:
            ValueError: if the folder has a run and neither resume nor overwrite is set, or the run
                to resume was made from something else and `allow_changed` is not set.
        """
        if resume and self.run is None:
            raise ValueError("resume needs the folder of the run: give out=")
        if self.run is None:
            return None
        if not resume:
            self.run.start(config, example, overwrite)
            return None
        before = self.run.config()
        changed = _changed(before, config)
        if changed and not allow_changed:
            listed = ", ".join(
                f"{k} {_short(a)} (now {_short(b)})" for k, (a, b) in changed.items()
            )
            raise ValueError(
                f"the run to resume was made with {listed}: give the same, start a new run, or "
                "go on all the same (--allow-changed, allow_changed=True)"
            )
        if not self.run.started:  # the process ended before its first checkpoint
            self.run.start(config, example, overwrite)
            return None
        self.run.lock()
        state = self.run.restore(device)
        known = before.get("changes", [])
        if changed:
            known = [*known, {"after_epoch": state["epoch"], "changed": changed}]
            self.run.notes.append(
                f"resumed after epoch {state['epoch']} with another {', '.join(changed)}"
            )
        self.run.update_config({**config, "changes": known} if known else config)
        return state, self.run.history(state["epoch"]), changed

    def open_bar(self, first: int, epochs: int) -> None:
        """Open the progress bar."""
        self._bar = tqdm(
            initial=first, total=epochs, unit="epoch", disable=None if self.progress else True
        )

    def epoch(self, row: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        """Write one epoch, the checkpoint last."""
        if self.run is not None:
            self.run.add_metrics(row)
            self.run.save(state)
        if self._writer is not None:
            for tag, value in _flat(row):
                self._writer.add_scalar(tag, value, row["epoch"])
        if self._bar is not None:
            bounds = {"bound": f"{-row['train_loss']:.2f}"}
            if row.get("valid_elbo") is not None:
                bounds["valid"] = f"{row['valid_elbo']:.2f}"
            self._bar.set_postfix(bounds)
            self._bar.update()

    def checkpoint(self, state: Mapping[str, Any]) -> None:
        """Write a checkpoint in mid-epoch."""
        if self.run is not None:
            self.run.save(state)

    def close(self) -> None:
        """Close the bar and the files, and let other trainings into the folder."""
        if self._bar is not None:
            self._bar.close()
        if self._writer is not None:
            self._writer.close()
        if self.run is not None:
            self.run.release()

    def summarize(self, fit: Fit, device: torch.device) -> None:
        """Write the summary."""
        if self.run is not None:
            last = fit.history[-1] if fit.history else {}
            best = [row for row in fit.history if row["epoch"] == fit.best_epoch]
            kept = best[0] if best else last
            self.run.write_summary(
                {
                    "epochs": last.get("epoch", 0),
                    "steps": last.get("step", 0),
                    "stop_reason": fit.stop_reason,
                    "best_epoch": fit.best_epoch,
                    "engine": fit.engine,
                    "device": str(device),
                    "train_loss": last.get("train_loss"),
                    "valid_elbo": kept.get("valid_elbo"),
                    "seconds": sum(row["seconds"] for row in fit.history),
                    "examples_per_second": last.get("examples_per_second"),
                    "notes": fit.notes,
                }
            )


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Options and fingerprints that determine the numbers of a run and differ: [old, new]."""
    known = [key for key in _FIXED if key in old]  # an earlier version had fewer
    options = {key: [old[key], new.get(key)] for key in known if old[key] != new.get(key)}
    return options | differences(old.get("fingerprints"), new.get("fingerprints"))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 20 else f"{text[:9]}...'"


def _flat(row: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    """Names and numbers of a row; terms by site are named as `sites/x`."""
    numbers: list[tuple[str, float]] = []
    for key, value in row.items():
        if isinstance(value, Mapping):
            numbers.extend(_flat(value, f"{prefix}{key}/"))
        elif isinstance(value, int | float) and key != "epoch":
            numbers.append((prefix + key, float(value)))
    return numbers


def _tensorboard(folder: Path) -> _Writer:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError(
            "tensorboard is not installed: pip install 'pvae-ppl[tensorboard]'"
        ) from error
    return cast(_Writer, SummaryWriter(str(folder / "tensorboard")))
