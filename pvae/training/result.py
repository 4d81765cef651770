"""What training returns: the trained pair and how it was trained."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pvae.pair.program import Program

__all__ = ["Fit"]


@dataclass
class Fit:
    """What `fit` returns: a trained pair, and how it was trained.

    Attributes:
        model: the trained model, in its parameter scope; call it like the original.
        guide: the trained guide, likewise.
        history: one row an epoch, as in metrics.jsonl: "epoch", "step", "train_loss" (minus the
            objective), "valid_elbo", "sites" (terms of the bound), all in nats per datum,
            "learning_rate", "beta", "seconds", "examples_per_second".
        engine: what carried out the steps.
        run: the run folder, or None.
        stopped: why training ended: "all epochs", "early stopping", "interrupted" or "callback".
        best_epoch: the epoch whose parameters were kept, where early stopping chose one.
        notes: what a reader should know about this training, in sentences.
    """

    model: Program
    guide: Program
    history: list[dict[str, Any]] = field(default_factory=list)
    engine: str = "eager"
    run: Path | None = None
    stopped: str = "all epochs"
    best_epoch: int | None = None
    notes: list[str] = field(default_factory=list)
