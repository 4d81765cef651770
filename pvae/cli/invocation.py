"""What a command line asks for: data, objective, schedule; and how a run remembers it."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import torch
from click.core import ParameterSource
from pyro.infer import ELBO

from pvae import data, objectives, zoo
from pvae.data import Rows, Splits
from pvae.engine.optimizers import MakeScheduler
from pvae.pair.preserve import seeded
from pvae.training.run import Run
from pvae.zoo import Built

__all__ = [
    "as_started",
    "free_folder",
    "held_out",
    "known_from",
    "load_data",
    "make_objective",
    "make_schedule",
    "pair_and_data",
    "remembered",
    "split_of",
]


def load_data(given: Mapping[str, Any]) -> Splits:
    """The data that were asked for."""
    return data.load(
        given["data_name"],
        binarize=given["binarize"],
        labels=given["labels"],
        seed=given["seed"],
    )


def pair_and_data(given: Mapping[str, Any]) -> tuple[Built, Splits]:
    """The pair and the data that were asked for."""
    with seeded(given["seed"]):
        of_data = load_data(given)
        options = zoo.parse_options(given["settings"])
        built = zoo.build(given["model"], given["guide"], options, known_from(of_data))
    return built, of_data


def known_from(of_data: Splits) -> dict[str, object]:
    """What constructors can be told of the data: its shape, grey levels, and what fits them."""
    levels = of_data.levels
    fitting = {None: "gaussian_learned_scale", 2: "bernoulli"}
    return {
        "x_shape": of_data.x_shape,
        "levels": levels,
        "likelihood": fitting.get(levels, "discretized_logistic"),
    }


def make_objective(text: str, x_shape: Sequence[int]) -> ELBO:
    """The objective of a text such as `elbo:num_particles=5,sites=['z1','z2']`."""
    name, _, options = text.partition(":")
    # At commas that are not within brackets.
    parts = re.split(r",(?![^\[(]*[\])])", options) if options else []
    return objectives.get(name, x_shape=x_shape, **zoo.parse_options(parts))


def make_schedule(name: str, epochs: int) -> MakeScheduler | None:
    """The course of the learning rate."""
    if name == "constant":
        return None
    return lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, epochs))


def held_out(of_data: Splits) -> tuple[str, Rows]:
    """The split to judge by, with its name: test, or else valid, or else train."""
    for name in ("test", "valid"):
        rows = getattr(of_data, name)
        if rows is not None:
            return name, rows
    return "train", of_data.train


def split_of(run: Path, split: str | None, data_name: str | None) -> tuple[str, Rows]:
    """The data of a run, or other data treated the same."""
    command = Run(run).config().get("command")
    if command is None and data_name is None:
        raise ValueError(f"{run} was made from Python and does not know its data: give --data")
    chosen = {"binarize": "none", "labels": False, "seed": 0, **(command or {})}
    if data_name is not None:
        chosen["data_name"] = data_name
    of_data = load_data(chosen)
    if split is None:
        return held_out(of_data)
    rows = getattr(of_data, split)
    if rows is None:
        raise ValueError(f"{of_data.name} has no {split} split")
    return split, rows


def remembered(given: Mapping[str, Any]) -> dict[str, object]:
    """The command line as the run keeps it, with files under their full path."""
    forgotten = ("out", "resume", "overwrite", "progress", "tensorboard")
    kept = {key: value for key, value in given.items() if key not in forgotten}
    for role in ("model", "guide"):
        place, colon, name = kept[role].rpartition(":")
        if colon and place.endswith(".py"):
            kept[role] = f"{Path(place).resolve()}:{name}"
    if Path(kept["data_name"]).suffix in (".npz", ".npy"):
        kept["data_name"] = str(Path(kept["data_name"]).resolve())
    return kept


def as_started(ctx: click.Context, given: dict[str, Any]) -> dict[str, Any]:
    """The command line of a run to resume: what it was started with, and more epochs."""
    if given["out"] is None:
        raise ValueError("--resume needs the folder of the run: give --out")
    started = Run(given["out"]).config().get("command")
    if started is None:
        raise ValueError(f"{given['out']} was made from Python: resume it with pvae.fit")
    may_change = ("epochs", "device", "particles", "out", "resume", "progress", "tensorboard")
    merged = {**given, **started}
    asked = {**given, **remembered(given)}
    for key, value in asked.items():
        if ctx.get_parameter_source(key) != ParameterSource.COMMANDLINE:
            continue
        before = started.get(key)
        same = value == (tuple(before) if isinstance(before, list) else before)
        if key not in may_change and not same:
            raise ValueError(
                f"the run was started with {key}={before!r}, not {value!r}: leave it out, or start "
                "a new run"
            )
        if key == "epochs" and started["schedule"] == "cosine" and not same:
            raise ValueError(
                f"the run's learning rate falls to 0 over its {before} epochs (--schedule cosine): "
                "it cannot be made longer; start a new run"
            )
        merged[key] = value
    return merged


def free_folder(name: str) -> Path:
    """runs/digits-1, or the first number that is free."""
    number, stem = 1, Path(name).stem
    while (folder := Path("runs") / f"{stem}-{number}").exists():
        number += 1
    return folder
