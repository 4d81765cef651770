"""From a command line to a pair and data, and from a run folder back to its command line."""

import itertools
import math
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click
import torch
from click.core import ParameterSource
from torch import nn

from pvae import data, priors, zoo
from pvae._validation import at_least
from pvae.data import Rows, Splits
from pvae.engine.all_reduce import ProcessEndedError
from pvae.engine.optimizers import MakeScheduler
from pvae.pair.preserve import seeded
from pvae.sources import refuse_foreign
from pvae.training.run import Run
from pvae.zoo import Built

__all__ = [
    "command_config",
    "completed",
    "held_out",
    "interrupted_by_sigterm",
    "load_data",
    "make_scheduler",
    "pair_and_data",
    "resumed_command",
    "run_folder",
    "split_of",
]


def completed(given: Mapping[str, Any]) -> dict[str, Any]:
    """A command line with what its model is usually trained with where it says nothing."""
    usual = {"guide": "mean_field", "data": "digits"}
    usual |= zoo.usual(given["model"])
    complete = dict(given)
    names = {"guide": "guide", "data": "data_name", "missing": "missing"}
    for name, option in names.items():
        if given[option] is None:
            complete[option] = usual.get(name)
    if not given["labels"] and given["num_labels"] is None and "labels" in usual:
        complete["labels"] = usual["labels"] == "all"
        complete["num_labels"] = None if complete["labels"] else int(usual["labels"])
    return complete


def load_data(given: Mapping[str, Any]) -> Splits:
    """The data set of a command line."""
    return data.load(
        given["data_name"],
        binarize=given["binarize"],
        labels=given["labels"] if given.get("num_labels") is None else given["num_labels"],
        missing=given.get("missing"),
        seed=given["seed"],
    )


def pair_and_data(given: Mapping[str, Any]) -> tuple[Built, Splits]:
    """The pair and the data set of a command line."""
    with seeded(given["seed"]):
        splits = load_data(given)
        options = zoo.parse_options(given["settings"])
        built = zoo.build(given["model"], given["guide"], options, _defaults_for(splits))
        if isinstance(built.model, nn.Module):
            for part in built.model.modules():
                if isinstance(part, priors.Vamp):
                    part.start_at(splits.train.first(10_000)[0])
    return built, splits


def _defaults_for(splits: Splits) -> dict[str, object]:
    """Constructor arguments that follow from the data: shape, grey levels and likelihood."""
    levels = splits.levels
    fitting = {None: "gaussian_learned_scale", 2: "bernoulli"}
    if splits.columns is not None:
        table = {"x_shape": splits.x_shape, "levels": levels, "likelihood": "mixed"}
        return {**table, "columns": list(splits.columns)}
    return {
        "x_shape": splits.x_shape,
        "levels": levels,
        "rows": len(splits.train),
        "likelihood": fitting.get(levels, "discretized_logistic"),
    }


def make_scheduler(name: str, epochs: int, warmup: int = 0) -> MakeScheduler | None:
    """The scheduler of the learning rate; None for a constant one.

    Args:
        name: "constant" or "cosine", which falls to 0 over the epochs after the warm-up.
        epochs: of the whole training.
        warmup: epochs in which the rate rises linearly.
    """
    at_least(0, learning_rate_warmup=warmup)

    def factor(epoch: int) -> float:
        rising = min(1.0, (epoch + 1) / (warmup + 1))
        if name == "constant":
            return rising
        done = min(1.0, max(0, epoch - warmup) / max(1, epochs - warmup))
        return rising * (1 + math.cos(math.pi * done)) / 2

    if name == "constant" and not warmup:
        return None
    return lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def held_out(splits: Splits) -> tuple[str, Rows]:
    """The split to evaluate on, with its name: test, or else valid, or else train."""
    for name in ("test", "valid"):
        rows = getattr(splits, name)
        if rows is not None:
            return name, rows
    return "train", splits.train


def split_of(run: Path, split: str | None, data_name: str | None) -> tuple[str, Rows]:
    """A split of a run's data, or of other data with the same options."""
    command = Run(run).config().get("command")
    if command is None and data_name is None:
        raise ValueError(f"{run} was made from Python and does not know its data: give --data")
    chosen = {"binarize": "none", "labels": False, "seed": 0, **(command or {})}
    if data_name is not None:
        chosen["data_name"] = data_name
    splits = load_data(chosen)
    if split is None:
        return held_out(splits)
    rows = getattr(splits, split)
    if rows is None:
        raise ValueError(f"{splits.name} has no {split} split")
    return split, rows


def command_config(given: Mapping[str, Any]) -> dict[str, object]:
    """The command line for the run's config, with absolute paths."""
    forgotten = (
        "out",
        "resume",
        "overwrite",
        "progress",
        "tensorboard",
        "trust",
        "keep",
        "allow_changed",
        "save_steps",
        "save_minutes",
    )
    kept = {key: value for key, value in given.items() if key not in forgotten}
    for role in ("model", "guide"):
        place, colon, name = kept[role].rpartition(":")
        if colon and place.endswith(".py"):
            kept[role] = f"{Path(place).resolve()}:{name}"
    if Path(kept["data_name"]).suffix in (".npz", ".npy"):
        kept["data_name"] = str(Path(kept["data_name"]).resolve())
    return kept


def resumed_command(ctx: click.Context, given: dict[str, Any]) -> dict[str, Any]:
    """The command line of a run to resume, which may have more epochs."""
    if given["out"] is None:
        raise ValueError("--resume needs the folder of the run: give --out")
    config = Run(given["out"]).config()
    started = config.get("command")
    if started is None:
        raise ValueError(f"{given['out']} was made from Python: resume it with pvae.fit")
    named = [ctx.get_parameter_source(role) for role in ("model", "guide")]
    again = all(source == ParameterSource.COMMANDLINE for source in named)
    refuse_foreign(
        {**config["pair"], **{role: started[role] for role in ("model", "guide")}},
        trust=given["trust"] or again,
        changed_too=given["allow_changed"],
    )
    may_change = (
        "epochs", "device", "num_particles", "out", "resume", "progress", "tensorboard", "trust",
        "keep", "allow_changed", "on_nan", "save_steps", "save_minutes", "threads",
    )  # fmt: skip
    merged = {**given, **started}
    asked = {**given, **command_config(completed(given))}
    for key, value in asked.items():
        if ctx.get_parameter_source(key) != ParameterSource.COMMANDLINE:
            continue
        if key == "threads" and value == "auto" and started.get(key) is not None:
            continue  # other numbers would round differently
        before = started.get(key)
        same = value == (tuple(before) if isinstance(before, list) else before)
        if key not in may_change and not same and not given["allow_changed"]:
            raise ValueError(
                f"the run was started with {key}={before!r}, not {value!r}: leave it out, start a "
                "new run, or add --allow-changed"
            )
        if key == "epochs" and started["schedule"] == "cosine" and not same:
            raise ValueError(
                f"the run's learning rate falls to 0 over its {before} epochs (--schedule cosine): "
                "it cannot be made longer; start a new run"
            )
        merged[key] = value
    return merged


@contextmanager
def interrupted_by_sigterm() -> Iterator[list[int]]:
    """Treat SIGTERM, with which schedulers end a job, as Ctrl-C; the list says if it came."""
    came: list[int] = []

    def interrupt(number: int, _: object) -> None:
        came.append(number)
        if not isinstance(sys.exc_info()[1], ProcessEndedError):  # which torchrun answers so
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield came  # only the main thread can handle signals
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield came
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def run_folder(given: Mapping[str, Any]) -> Iterator[Path]:
    """The folder of --out, or a new one: runs/digits-1, or the first number that is not taken."""
    if given["out"] is not None:
        yield given["out"]
        return
    stem = Path(given["data_name"]).stem
    for number in itertools.count(1):
        folder = Path("runs") / f"{stem}-{number}"
        try:
            folder.mkdir(parents=True)  # also taken if another process makes it just now
        except FileExistsError:
            continue
        break
    try:
        yield folder
    except BaseException:
        with suppress(OSError):
            folder.rmdir()  # if nothing was written
        raise
