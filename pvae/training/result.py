"""The result of a training: the trained pair and its history."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pvae.pair.program import Program
from pvae.training.averaging import WeightAverage

__all__ = ["Fit"]


@dataclass
class Fit:
    """The result of `fit`: a trained pair and its history.

    Attributes:
        model: the trained model, in its parameter scope; call it like the original, whose
            attributes it has as well.
        guide: the trained guide, likewise.
        history: one row per epoch, as in metrics.jsonl: "epoch", "step", "train_loss" (minus the
            objective), "valid_elbo", "valid_elbo_ema", "sites" (terms of the bound), all in nats
            per datum, "learning_rate", "beta", "skipped", "seconds", "loading" (the
            share of the time until batches were there), "examples_per_second".
        engine: how the steps were executed.
        run: the run folder, or None.
        stop_reason: "all epochs", "early stopping", "interrupted" or "callback".
        best_epoch: the epoch whose parameters were kept by early stopping, or None.
        notes: what a reader should know about this training, in sentences.
        average: the exponential moving average of the parameters, or None.

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
    average: WeightAverage | None = None

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within the block, the pair has the average of its parameters over the steps.

        Raises:
            ValueError: if the training had no `ema`.

        Example:
            >>> import pvae, torch
            >>> sizes = {"x_shape": (4,), "z_dim": 1, "hidden": 8}
            >>> model, guide = pvae.models.VAE(**sizes), pvae.guides.MeanField(**sizes)
            >>> x = torch.rand(64, 4).round()
            >>> fit = pvae.fit(model, guide, x, epochs=2, ema=0.99, progress=False)
            >>> with fit.averaged():
            ...     bound = pvae.elbo(fit.model, fit.guide, x)
        """
        if self.average is None:
            raise ValueError("the training had no average of its parameters: give fit ema=0.999")
        with self.average.applied():
            yield
