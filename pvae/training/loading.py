"""Load a trained pair from a run folder, in any process."""

from collections.abc import Callable
from pathlib import Path

import torch

from pvae import zoo
from pvae.pair.pair import Pair
from pvae.pair.preserve import preserve_generators
from pvae.sources import refuse_foreign
from pvae.training.averaging import WeightAverage
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
    trust: bool = False,
    ema: bool = False,
) -> Fit:
    """Load a trained pair from a run folder, without executing pickled code.

    A run names its programs. Those of the zoo are part of pvae; any other is code, in a file beside
    the run, and is executed only if it is the file that the run was trained with and `trust` is
    set: a run from someone else is code unless its programs are the zoo's.

    Args:
        run: the folder.
        model: the model, for a run that `fit` made from Python; values are copied into it. Not
            needed for runs created by `pvae train`, which record their model.
        guide: the guide, likewise.
        device: "auto", "cpu", "cuda", ...
        trust: execute the programs that the run names although they are not the zoo's.
        ema: put the moving average into the parameters, of a run that was trained with `ema`.

    Returns:
        The trained pair and its history, with the best parameters if early stopping kept them.

    Raises:
        ValueError: if there is no run in the folder, a file of it is damaged, the pair is not the
            one that was trained, or its programs are neither the zoo's nor trusted and unchanged.

    Example:
        >>> import pvae, tempfile, torch
        >>> def make():
        ...     sizes = {"x_shape": (4,), "z_dim": 1, "hidden": 8}
        ...     return pvae.models.VAE(**sizes), pvae.guides.MeanField(**sizes)
        >>> x = torch.rand(64, 4).round()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     fit = pvae.fit(*make(), x, epochs=1, out=f"{folder}/run", progress=False)
        ...     model, guide = make()
        ...     again = pvae.load(f"{folder}/run", model=model, guide=guide)
        >>> bound = pvae.elbo(again.model, again.guide, x).mean
        >>> bound == pvae.elbo(fit.model, fit.guide, x).mean
        True
    """
    folder = Run(run)
    config = folder.config()
    if model is None or guide is None:
        described = config.get("pair")
        if described is None or model is not None or guide is not None:
            raise ValueError(
                f"{folder.path} was made from Python: give both programs, built as for training: "
                "load(run, model=..., guide=...)"
            )
        refuse_foreign(described, trust=trust)
        with preserve_generators():
            built = zoo.build(
                *(described[key] for key in ("model", "guide", "options", "defaults"))
            )
        model, guide = built.model, built.guide
    trained = Pair(model, guide)
    trained.to(find_device(device))
    state = folder.restore(trained.device)
    saved = (state["best"] or state)["pair"]
    of_data = saved.get("data", {})
    trained.missing, trained.index_at = bool(of_data.get("missing")), of_data.get("index_at")
    with trained.scope():
        trained.initialize(folder.example(trained.device))
        # A baseline belongs to the objective, which is not needed any more.
        own = {n: v for n, v in saved["networks"].items() if not n.startswith("objective.")}
        trained.load_state_dict({**saved, "networks": own})
    trained.eval()
    history = folder.history(state["epoch"])
    fit = Fit(trained.model, trained.guide, history, run=folder.path, notes=folder.notes)
    average = (state["best"] or state).get("average")
    if average is not None:
        fit.average = WeightAverage(trained, 0.0)
        fit.average.load_state_dict(average)
    if (summary := folder.summary()) is not None:  # not yet, while the run goes on
        fit.engine, fit.stop_reason = summary["engine"], summary["stop_reason"]
        fit.best_epoch = summary["best_epoch"]
        fit.notes = [*summary["notes"], *folder.notes]
    if ema and fit.average is None:
        raise ValueError(
            f"{folder.path} has no moving average of its parameters: leave ema (--ema) out, or "
            "train with ema=0.999"
        )
    if ema and fit.average is not None:
        fit.average.apply()
    return fit
