"""The commands that use a run: evaluate, sample, infer."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from pvae import plots
from pvae.cli.figures import observed_name
from pvae.cli.group import AT_LEAST_1, SPLITS, main, print_notes
from pvae.cli.invocation import split_of
from pvae.cli.report import evaluate, table
from pvae.pair.predictive import infer, sample
from pvae.pair.preserve import seeded
from pvae.training.loading import load
from pvae.training.result import Fit
from pvae.training.run import Run

__all__ = ["evaluate_", "infer_", "sample_"]


@main.command("evaluate")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--split", type=SPLITS, help="[default: test, or else valid, or else train]")
@click.option("--data", "data_name", help="Other data than the run's.")
@click.option("--particles", type=AT_LEAST_1, default=1000, help="Importance samples per datum.")
@click.option("--full", is_flag=True, help="Also what takes minutes: see below.")
@click.option("--seed", default=0, help="Seeds the draws.")
@click.option("--device", default="auto", help="auto, cpu, cuda, ...")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--progress/--no-progress", default=True, help="Show progress bars.")
def evaluate_(
    run: Path,
    split: str | None,
    data_name: str | None,
    particles: int,
    full: bool,
    seed: int,
    device: str,
    as_json: bool,
    progress: bool,
) -> None:
    """Evaluate the pair of RUN on data: bounds, likelihood, and what the latent space is used for.

    With --full, on 100 of the data: annealed importance sampling, a lower and an upper bound on
    simulated data, calibration of the guide, and its amortization gap.
    """
    trained = _load_run(run, device)
    name, rows = split_of(run, split, data_name)
    shown = progress and not as_json
    report = evaluate(trained, rows, name, particles, full=full, seed=seed, progress=shown)
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
@click.option("--split", type=SPLITS, help="[default: test, or else valid, or else train]")
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


def _load_run(run: Path, device: str) -> Fit:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the notes have them too
        trained = load(run, device=device)
    print_notes(trained.notes)
    return trained


def _write(path: Path, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    shapes = ", ".join(f"{name} {value.shape}" for name, value in arrays.items())
    click.echo(f"{path}: {shapes}")
