"""The result of a training: the trained pair and its history."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pvae.pair.program import Program

__all__ = ["Fit"]


@dataclass
class Fit:
    """The result of `fit`: a trained pair and its history.

    Attributes:
        model: the trained model, in its parameter scope; call it like the original, whose
            attributes it has as well.
        guide: the trained guide, likewise.
        history: one row per epoch, as in metrics.jsonl: "epoch", "step", "train_loss" (minus the
            objective), "valid_elbo", "sites" (terms of the bound), all in nats per datum,
            "learning_rate", "beta", "seconds", "examples_per_second".
        engine: how the steps were executed.
        run: the run folder, or None.
        stop_reason: "all epochs", "early stopping", "interrupted" or "callback".
        best_epoch: the epoch whose parameters were kept by early stopping, or None.
        notes: what a reader should know about this training, in sentences.

    Example:
        >>> import pvae, torch
        >>> model = pvae.models.VAE(x_shape=(8, 8), z_dim=2)
        >>> guide = pvae.guides.MeanField(x_shape=(8, 8), z_dim=2)
        >>> x = torch.rand(64, 8, 8).round()
        >>> fit = pvae.fit(model, guide, x, epochs=2, progress=False)
        >>> [row["epoch"] for row in fit.history], fit.stop_reason
        ([1, 2], 'all epochs')
    """

    model: Program
    guide: Program
    history: list[dict[str, Any]] = field(default_factory=list)
    engine: str = "eager"
    run: Path | None = None
    stop_reason: str = "all epochs"
    best_epoch: int | None = None
    notes: list[str] = field(default_factory=list)
