"""The command `pvae`: train, evaluate, sample, infer, bench, list."""

import json
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from pvae import data, likelihoods, objectives, plots, targets
from pvae.bench import PYRO, Timings, contenders, machine
from pvae.data import DataSet, batches
from pvae.devices import find_device
from pvae.failure import DivergedError
from pvae.fits import Fit
from pvae.invocation import (
    as_started,
    free_folder,
    held_out,
    make_objective,
    make_schedule,
    pair_and_data,
    remembered,
    split_of,
)
from pvae.loading import load
from pvae.programs import infer, sample
from pvae.randomness import seeded
from pvae.report import evaluate, figures, observed_name, table
from pvae.runs import Run
from pvae.training import fit

__all__ = ["main"]


_SPLITS = click.Choice(["train", "valid", "test"])
_AT_LEAST_1 = click.IntRange(min=1)


def _of_a_pair(command: Callable[..., None]) -> Callable[..., None]:
    """What names a pair, its data and its objective."""
    decorators = [
        click.argument("model", default="vae"),
        click.argument("guide", default="mean_field"),
        click.option("--data", "data_name", default="digits", help="A named data set, .npz, .npy."),
        click.option("--binarize", default="none", help="none, dynamic, static or threshold."),
        click.option("--labels", is_flag=True, help="Pass labels to the programs, after x."),
        click.option(
            "--set", "settings", multiple=True, metavar="KEY=VALUE", help="For constructors."
        ),
        click.option(
            "--objective", default="elbo", metavar="NAME[:KEY=VALUE,...]", help="The bound."
        ),
    ]
    for decorator in reversed(decorators):
        command = decorator(command)
    return command


class _Commands(click.Group):
    """Says what went wrong in one sentence, where it is the user's to put right."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except (ValueError, TypeError, OSError, DivergedError) as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Commands, context_settings={"show_default": True, "max_content_width": 100})
@click.version_option(package_name="pvae-ppl")
def main() -> None:
    """Variational autoencoders by probabilistic programming: any Pyro model/guide pair."""


@main.command()
@_of_a_pair
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
    type=_AT_LEAST_1,
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
        objective=make_objective(given["objective"]),
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
    _print_notes(trained.notes)
    if trained.stopped == "interrupted":
        click.echo(
            f"interrupted after {len(trained.history)} whole epochs; go on with "
            f"`pvae train --resume --out {out}`, or use the run as it is",
            err=True,
        )
        sys.exit(130)
    _finish(trained, of_data, given, Run(out))


def _finish(trained: Fit, of_data: DataSet, given: Mapping[str, Any], run: Run) -> None:
    """Print the table and draw the figures."""
    split, rows = held_out(of_data)
    options = {"seed": given["seed"], "progress": given["progress"]}
    report = evaluate(trained, rows, split, given["particles"], **options)
    last = trained.history[-1] if trained.history else {}
    seconds = sum(row["seconds"] for row in trained.history)
    lines = [
        *report.lines(),
        ("seconds", f"{seconds:.1f} for {last.get('epoch', 0)} epochs ({trained.stopped})"),
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


@main.command("evaluate")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--split", type=_SPLITS, help="[default: test, or else valid, or else train]")
@click.option("--data", "data_name", help="Other data than the run's.")
@click.option("--particles", type=_AT_LEAST_1, default=1000, help="Importance samples per datum.")
@click.option("--seed", default=0, help="Seeds the draws.")
@click.option("--device", default="auto", help="auto, cpu, cuda, ...")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--progress/--no-progress", default=True, help="Show progress bars.")
def evaluate_(
    run: Path,
    split: str | None,
    data_name: str | None,
    particles: int,
    seed: int,
    device: str,
    as_json: bool,
    progress: bool,
) -> None:
    """Evaluate the pair of RUN on data: bound, terms by site, log-likelihood."""
    trained = _load_run(run, device)
    name, rows = split_of(run, split, data_name)
    report = evaluate(trained, rows, name, particles, seed=seed, progress=progress and not as_json)
    if as_json:
        click.echo(json.dumps(report.as_json(), indent=2))
    else:
        click.echo(table(report.lines()))


@main.command("sample")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--n", default=64, help="Number of draws.")
@click.option("--seed", default=0, help="Seeds the draws.")
@click.option("--device", default="auto", help="auto, cpu, cuda, ...")
@click.option("--out", type=click.Path(path_type=Path), help="[default: samples.npz in RUN]")
def sample_(run: Path, n: int, seed: int, device: str, out: Path | None) -> None:
    """Draw every site of the model of RUN, into an .npz with one array a site, and a picture."""
    if n < 1:
        raise ValueError(f"n is {n}: give at least 1")
    trained = _load_run(run, device)
    example = Run(run).example()
    index = torch.arange(n) % len(example[0])
    with seeded(seed):
        draws = sample(trained.model, tuple(part[index] for part in example))
    path = (out or run / "samples.npz").with_suffix(".npz")
    _write(path, {site: value.cpu().numpy() for site, value in draws.items()})
    seen = observed_name(draws, example)
    if seen is not None:
        plots.prior_samples(draws[seen].cpu(), n=n).savefig(path.with_suffix(".png"))


@main.command("infer")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--split", type=_SPLITS, help="[default: test, or else valid, or else train]")
@click.option("--data", "data_name", help="Other data than the run's.")
@click.option("--device", default="auto", help="auto, cpu, cuda, ...")
@click.option("--out", type=click.Path(path_type=Path), help="[default: codes.npz in RUN]")
def infer_(
    run: Path, split: str | None, data_name: str | None, device: str, out: Path | None
) -> None:
    """Write the latent codes of data into an .npz: one array a site, and labels if there are."""
    trained = _load_run(run, device)
    _, rows = split_of(run, split, data_name)
    codes = {site: value.cpu().numpy() for site, value in infer(trained.guide, rows).items()}
    if rows.labels is not None:
        codes["labels"] = rows.labels.cpu().numpy()
    _write((out or run / "codes.npz").with_suffix(".npz"), codes)


@main.command("bench")
@_of_a_pair
@click.option("--batch-size", type=_AT_LEAST_1, help="Data per step.  [default: 128]")
@click.option("--rounds", type=click.IntRange(min=2), default=40, help="Turns of each way.")
@click.option("--device", default="auto", help="auto, cpu, cuda, ...")
@click.option("--seed", default=0, help="Seeds everything.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def bench_(**given: Any) -> None:
    """Time a gradient step of MODEL and GUIDE: Pyro's SVI beside the engines of pvae."""
    device = find_device(given["device"])
    built, of_data = pair_and_data(given)
    size = given["batch_size"] or min(128, len(of_data.train))
    source = batches(of_data.train, batch_size=size, device=device, seed=given["seed"])
    batch = next(source.epoch(0))
    with seeded(given["seed"]):
        ways, own = contenders(built.model, built.guide, batch, make_objective(given["objective"]))
        timings = Timings.measure(ways, given["rounds"])
    notes = [f"{name}: {note}" for name, svi in own.items() for note in svi.notes]
    if given["as_json"]:
        found = {"milliseconds": timings.as_json(), "notes": notes, "machine": machine(device)}
        click.echo(json.dumps({"batch": len(batch[0]), **found}, indent=2))
        return
    click.echo(f"milliseconds a step of {len(batch[0])} data on {device}: median and quartiles")
    click.echo(table(timings.lines(PYRO)))
    _print_notes(notes)


@main.command("list")
def list_() -> None:
    """Print the models, guides, data sets, likelihoods and objectives that have names."""
    for title, role in (("models", "model"), ("guides", "guide")):
        click.echo(f"{title}:")
        for entry in targets.zoo(role):
            options = ", ".join(f"{name}={value}" for name, value in entry.options)
            click.echo(f"  {entry.name:<12} {entry.summary} [{options}]")
    for title, known in (
        ("data", data.names),
        ("likelihoods", likelihoods.names),
        ("objectives", objectives.names),
    ):
        click.echo(f"{title}:\n  {', '.join(known)}")


def _load_run(run: Path, device: str) -> Fit:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the notes have them too
        trained = load(run, device=device)
    _print_notes(trained.notes)
    return trained


def _print_notes(notes: list[str]) -> None:
    for note in notes:
        click.echo(f"note: {note}", err=True)


def _write(path: Path, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    shapes = ", ".join(f"{name} {value.shape}" for name, value in arrays.items())
    click.echo(f"{path}: {shapes}")
