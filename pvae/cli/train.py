"""The command `pvae train`."""

import sys
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click
import torch

from pvae.cli.config_file import config_option
from pvae.cli.figures import figures
from pvae.cli.group import AT_LEAST_1, DEVICE, TRUST, main, pair_options, print_notes
from pvae.cli.invocation import (
    command_config,
    completed,
    held_out,
    interrupted_by_sigterm,
    make_scheduler,
    pair_and_data,
    resumed_command,
    run_folder,
)
from pvae.cli.numbers import Numbers, evaluate
from pvae.cli.report import Line, lines_of, table
from pvae.data import Rows
from pvae.engine.threads import fastest_number_of_threads
from pvae.training import Fit, fit
from pvae.training.options import ON_NAN
from pvae.training.processes import process_group
from pvae.training.run import Run

__all__ = ["train"]

# The options that have the names of `fit`'s arguments.
_OF_FIT = (
    "learning_rate", "epochs", "batch_size", "warmup", "clip_norm", "on_nan", "accumulate", "ema",
    "patience", "save_steps", "save_minutes", "device", "engine", "precision", "seed", "resume",
    "overwrite", "allow_changed", "keep", "tensorboard", "progress",
)  # fmt: skip

_SLOW_LOADING = 0.1  # share of the time, from which on it is printed


def _number_or_auto(value: Any) -> int | str:
    """A number of threads, or "auto"."""
    return "auto" if value == "auto" else int(AT_LEAST_1.convert(value, None, None))


@main.command()
@config_option
@pair_options
@click.option("--epochs", default=50, help="Number of passes through the data.")
@click.option("--batch-size", type=int, help="Number of rows per gradient step.  [default: 128]")
@click.option("--learning-rate", default=1e-3, help="Learning rate of Adam.")
@click.option(
    "--schedule",
    type=click.Choice(["constant", "cosine"]),
    default="constant",
    help="How the learning rate changes over the epochs.",
)
@click.option(
    "--learning-rate-warmup", default=0, help="Number of epochs in which the learning rate rises."
)
@click.option(
    "--warmup", default=0, help="Number of epochs in which the weight of the KL terms rises to 1."
)
@click.option("--clip-norm", type=float, help="Largest norm of a step's gradient.")
@click.option(
    "--on-nan",
    type=click.Choice(ON_NAN),
    default="stop",
    help="If the loss becomes NaN: stop, skip the step, or roll back with half the learning rate.",
)
@click.option(
    "--accumulate",
    type=AT_LEAST_1,
    default=1,
    help="Number of batches whose gradients are added for each step.",
)
@click.option(
    "--patience",
    type=int,
    help="Stop after this many epochs without a better validation bound, and keep the best.",
)
@click.option(
    "--ema", type=float, help="Decay of a moving average of the parameters, such as 0.999."
)
@click.option(
    "--save-steps", type=AT_LEAST_1, help="Also write a checkpoint after each so many steps."
)
@click.option(
    "--save-minutes",
    default=10.0,
    help="Also write a checkpoint in mid-epoch if the last one is so many minutes old.",
)
@click.option(
    "--num-particles",
    "--particles",
    type=AT_LEAST_1,
    default=200,
    help="Number of importance samples per datum in the final evaluation.",
)
@click.option("--device", default="auto", help=DEVICE)
@click.option(
    "--engine",
    default="auto",
    help="How gradient steps are executed: auto, eager, recorded or captured.",
)
@click.option(
    "--precision",
    default="float32",
    help="Precision of matrix products in networks: float32, tf32 or bfloat16.",
)
@click.option(
    "--threads",
    type=_number_or_auto,
    metavar="[INTEGER|auto]",
    help="Number of threads, or auto: what is fastest at the start, beside other processes.  "
    "[default: torch's]",
)
@click.option("--seed", default=0, help="Seed of all random numbers.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="The run folder.  [default: a new folder in runs/]",
)
@click.option(
    "--resume",
    is_flag=False,
    flag_value="always",
    default="never",
    type=click.Choice(["never", "always", "auto"]),
    metavar="[auto]",
    show_default=False,
    help="Continue the run in --out; with auto, start it if there is none yet.",
)
@click.option("--trust", is_flag=True, help=TRUST)
@click.option(
    "--keep",
    type=AT_LEAST_1,
    default=1,
    help="Number of checkpoints to keep; one before a damaged one is used instead of it.",
)
@click.option(
    "--allow-changed",
    is_flag=True,
    help="Resume although programs, data, sites or versions changed, and record what did.",
)
@click.option("--overwrite", is_flag=True, help="Replace the run in --out.")
@click.option("--tensorboard", is_flag=True, help="Write files for TensorBoard, too.")
@click.option("--progress/--no-progress", default=True, help="Show progress bars.")
@click.pass_context
def train(ctx: click.Context, /, **given: Any) -> None:
    """Train MODEL with GUIDE, print an evaluation and draw figures.

    MODEL and GUIDE are names that `pvae list` prints, file.py:Name, package.module:Name, or
    file.py:Class.method. Where they are not given, GUIDE, the data and their labels are those that
    the model names in its docstring.
    """
    if given["resume"] == "auto" and given["out"] is None:
        raise ValueError("--resume auto needs the folder of the run: give --out")
    auto = given["resume"] == "auto" and Run(given["out"]).exists
    given["resume"] = auto or given["resume"] == "always"
    given = resumed_command(ctx, given) if given["resume"] else completed(given)
    if given["threads"] == "auto":
        given["threads"] = fastest_number_of_threads()  # the run's, however often it is resumed
    if given["threads"] is not None:
        torch.set_num_threads(given["threads"])
    built, splits = pair_and_data(given)
    with process_group() as rank:
        with (
            run_folder(given) if rank == 0 else nullcontext() as out,
            interrupted_by_sigterm() as terminated,
        ):
            trained = fit(
                built.model,
                built.guide,
                splits,
                objective=given["objective"],
                missing=given["missing"],
                scheduler=make_scheduler(
                    given["schedule"], given["epochs"], given["learning_rate_warmup"]
                ),
                out=out,
                config={"command": command_config(given), "pair": built.as_json()},
                **{name: given[name] for name in _OF_FIT},
            )
        if trained.stop_reason == "interrupted":
            _say_interrupted(trained, out)
            sys.exit(143 if terminated else 130)
        split, rows = held_out(splits)
        numbers = evaluate(
            trained, rows, split, given["num_particles"], train=splits.train, seed=given["seed"],
            progress=given["progress"],
        )  # fmt: skip
    if out is not None:  # in the first process
        _finish(trained, rows, numbers, given, Run(out))


def _say_interrupted(trained: Fit, out: Path | None) -> None:
    """Print notes, and how to go on."""
    if out is not None:
        print_notes(trained.notes)
        click.echo(
            f"interrupted after {len(trained.history)} complete epochs; continue with "
            f"`pvae train --resume --out {out}`, or use the run as it is",
            err=True,
        )


def _finish(trained: Fit, rows: Rows, numbers: Numbers, given: Mapping[str, Any], run: Run) -> None:
    """Print the table and draw the figures."""
    print_notes(trained.notes)
    evaluated = {**(run.summary() or {}), "evaluation": numbers.as_json()}
    run.write_summary(evaluated)
    drawn = figures(trained, rows, seed=given["seed"])
    for name, figure in drawn.items():
        run.save_figure(name, figure)
    run.write_summary({**evaluated, "figures": list(drawn)})
    title = f"{len(rows):,} {numbers.split} rows, nats per datum"
    click.echo(table(lines_of(numbers), title))
    click.echo(table(_of_training(trained, run)))


def _of_training(trained: Fit, run: Run) -> list[Line]:
    last = trained.history[-1] if trained.history else {}
    seconds = sum(row["seconds"] for row in trained.history)
    speed = last.get("examples_per_second", 0)
    share = last.get("loading", 0.0)
    loading = f", {share:.0%} of it to load batches" if share >= _SLOW_LOADING else ""
    kept = "" if trained.best_epoch is None else f", epoch {trained.best_epoch} kept"
    return [
        Line("training", f"{last.get('epoch', 0)} epochs ({trained.stop_reason}{kept})"),
        Line("time", f"{seconds:.1f} s, {speed:,.0f} examples per second{loading}"),
        Line("engine", trained.engine),
        Line("run", f"{run.path}, figures in {run.path / 'figures'}"),
    ]
