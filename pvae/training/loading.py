"""A run folder back into a trained pair, in any process."""

import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from pvae import zoo
from pvae.pair.pair import Pair
from pvae.pair.preserve import preserve_generators
from pvae.training.devices import find_device
from pvae.training.result import Fit
from pvae.training.run import Run, load_checkpoint

__all__ = ["load"]


def load(
    run: str | Path,
    *,
    model: Callable[..., object] | None = None,
    guide: Callable[..., object] | None = None,
    device: str | torch.device = "auto",
) -> Fit:
    """Load what was trained in a run folder; nothing pickled is executed.

    Args:
        run: the folder.
        model: the model, for a run that `fit` made from Python; values are copied into it. A run of
            `pvae train` knows where to find its own.
        guide: the guide, likewise.
        device: "auto", "cpu", "cuda", ...

    Returns:
        The trained pair and its history; the best parameters, where early stopping kept them.

    Raises:
        ValueError: no run there, or a pair that is not the one that was trained.

    Warns:
        UserWarning: the file that holds the model or the guide has changed since.
    """
    folder = Run(run)
    config = folder.config()
    notes = []
    if model is None or guide is None:
        described = config.get("pair")
        if described is None or model is not None or guide is not None:
            raise ValueError(
                f"{folder.path} was made from Python: give both programs, "
                "load(run, model=..., guide=...), built as they were for training"
            )
        sources = [zoo.Source(**source) for source in described["sources"].values()]
        notes = [note for source in sources if (note := zoo.changed(source)) is not None]
        for note in notes:
            warnings.warn(note, stacklevel=2)
        with preserve_generators():
            built = zoo.build(
                *(described[key] for key in ("model", "guide", "options", "defaults"))
            )
        model, guide = built.model, built.guide
    trained = Pair(model, guide)
    trained.to(find_device(device))
    state = load_checkpoint(folder.checkpoint, trained.device)
    with trained.scope():
        trained.initialize(folder.example(trained.device))
        saved = (state["best"] or state)["pair"]
        # A baseline belongs to the objective, which is not needed any more.
        own = {n: v for n, v in saved["networks"].items() if not n.startswith("objective.")}
        trained.load_state_dict({**saved, "networks": own})
    trained.eval()
    fit = Fit(trained.model, trained.guide, folder.history(), run=folder.path, notes=notes)
    if (folder.path / "summary.json").exists():  # not yet, while the run goes on
        summary = folder.summary()
        fit.engine, fit.stop_reason = summary["engine"], summary["stop_reason"]
        fit.best_epoch = summary["best_epoch"]
        fit.notes = [*summary["notes"], *notes]
    return fit
