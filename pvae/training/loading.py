"""A run folder back into a trained pair, in any process."""

import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from pvae import zoo
from pvae.pair.pair import Belongings
from pvae.pair.preserve import preserved
from pvae.training.checkpoint import load_checkpoint
from pvae.training.devices import find_device
from pvae.training.result import Fit
from pvae.training.run import Run

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
        pair = config.get("pair")
        if pair is None or model is not None or guide is not None:
            raise ValueError(
                f"{folder.path} was made from Python: give both programs, "
                "load(run, model=..., guide=...), built as they were for training"
            )
        sources = [zoo.Source(**source) for source in pair["sources"].values()]
        notes = [note for source in sources if (note := zoo.changed(source)) is not None]
        for note in notes:
            warnings.warn(note, stacklevel=2)
        with preserved():
            built = zoo.build(pair["model"], pair["guide"], pair["options"], pair["defaults"])
        model, guide = built.model, built.guide
    belongings = Belongings(model, guide)
    belongings.to(find_device(device))
    state = load_checkpoint(folder.checkpoint, belongings.device)
    with belongings.scope():
        belongings.discover(folder.example(belongings.device))
        pair = (state["best"] or state)["pair"]
        # A baseline belongs to the objective, which is not needed any more.
        own = {n: v for n, v in pair["networks"].items() if not n.startswith("objective.")}
        belongings.load_state_dict({**pair, "networks": own})
    belongings.eval()
    fit = Fit(belongings.model, belongings.guide, folder.history(), run=folder.path, notes=notes)
    if (folder.path / "summary.json").exists():  # not yet, while the run goes on
        summary = folder.summary()
        fit.engine, fit.stopped = summary["engine"], summary["stopped"]
        fit.best_epoch = summary["best_epoch"]
        fit.notes = [*summary["notes"], *notes]
    return fit
