"""The command `pvae train`."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from pvae.cli.figures import figures
from pvae.cli.group import AT_LEAST_1, main, of_a_pair, print_notes
from pvae.cli.invocation import (
    as_started,
    free_folder,
    held_out,
    make_objective,
    make_schedule,
    pair_and_data,
    remembered,
)
from pvae.cli.report import evaluate, table
from pvae.data import Splits
from pvae.training.fitting import fit
from pvae.training.result import Fit
from pvae.training.run import Run

__all__ = ["train"]


@main.command()
@of_a_pair
@click.option("--epochs", default=50, help="Passes through the data.")
@click.option("--batch-size", type=int, default=None, help="Data per step.  [default: 128]")
@click.option("--learning-rate", default=1e-3, help="Of Adam.")
@click.option("--schedule", type=click.Choice(["constant", "cosine"]), default="constant",
              help="Course of the learning rate over the epochs.")  # fmt: skip
@click.option("--warmup", default=0, help="Epochs in which the weight of latent sites rises.")
@click.option("--clip-norm", type=float, help="Largest norm of a step's gradient.")
@click.option("--patience", type=int, help="Stop after so many epochs without a better bound.")
@click.option(
    "--particles",
    type=AT_LEAST_1,
    default=200,
    help="Importance samples per datum in the table.",
)
@click.option("--device", default="auto", help="auto, cpu, cuda, ...")
@click.option("--engine", default="auto", help="auto, eager, recorded or captured.")
@click.option("--precision", default="float32", help="float32, tf32 or bfloat16.")
@click.option("--seed", default=0, help="Seeds everything.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="The run folder.  [default: a new one]"
)
@click.option("--resume", is_flag=True, help="Go on with the run in --out.")
@click.option("--overwrite", is_flag=True, help="Replace the run in --out.")
@click.option("--tensorboard", is_flag=True, help="Also write TensorBoard's files.")
@click.option("--progress/--no-progress", default=True, help="Show progress bars.")
@click.pass_context
def train(ctx: click.Context, /, **given: Any) -> None:
    """Train MODEL with GUIDE, then print what came out and draw it.

    MODEL and GUIDE are a name that `pvae list` prints, file.py:Name, package.module:Name, or
    file.py:Class.method.
    """
    if given["resume"]:
        given = as_started(ctx, given)
    built, of_data = pair_and_data(given)
    out = given["out"] or free_folder(given["data_name"])
    trained = fit(
        built.model,
        built.guide,
        of_data,
        objective=make_objective(given["objective"], of_data.x_shape),
        learning_rate=given["learning_rate"],
        scheduler=make_schedule(given["schedule"], given["epochs"]),
        epochs=given["epochs"],
        batch_size=given["batch_size"],
        warmup=given["warmup"],
        clip_norm=given["clip_norm"],
        patience=given["patience"],
        device=given["device"],
        engine=given["engine"],
        precision=given["precision"],
        seed=given["seed"],
        out=out,
        resume=given["resume"],
        overwrite=given["overwrite"],
        tensorboard=given["tensorboard"],
        progress=given["progress"],
        config={"command": remembered(given), "pair": built.as_json()},
    )
    print_notes(trained.notes)
    if trained.stop_reason == "interrupted":
        click.echo(
            f"interrupted after {len(trained.history)} whole epochs; go on with "
            f"`pvae train --resume --out {out}`, or use the run as it is",
            err=True,
        )
        sys.exit(130)
    _finish(trained, of_data, given, Run(out))


def _finish(trained: Fit, of_data: Splits, given: Mapping[str, Any], run: Run) -> None:
    """Print the table and draw the figures."""
    split, rows = held_out(of_data)
    options = {"seed": given["seed"], "progress": given["progress"]}
    report = evaluate(trained, rows, split, given["particles"], **options)
    last = trained.history[-1] if trained.history else {}
    seconds = sum(row["seconds"] for row in trained.history)
    lines = [
        *report.lines(),
        ("seconds", f"{seconds:.1f} for {last.get('epoch', 0)} epochs ({trained.stop_reason})"),
        ("examples per second", f"{last.get('examples_per_second', 0):,.0f}"),
        ("engine", trained.engine),
    ]
    if trained.best_epoch is not None:
        lines.append(("kept", f"the parameters of epoch {trained.best_epoch}"))
    run.write_summary({**run.summary(), "evaluation": report.as_json()})
    for name, figure in figures(trained, rows, seed=given["seed"]).items():
        figure.savefig(run.figures / f"{name}.png", dpi=150)
    lines.append(("run", f"{run.path}, pictures in {run.path / 'figures'}"))
    click.echo(table(lines))
