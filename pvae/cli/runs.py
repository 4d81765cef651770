"""The commands that use a run: evaluate, sample, infer."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from pvae import zoo
from pvae._validation import at_least
from pvae.cli.figures import observed_name
from pvae.cli.group import AT_LEAST_1, DEVICE, EMA, SPLITS, TRUST, main, print_notes
from pvae.cli.invocation import split_of
from pvae.cli.numbers import evaluate
from pvae.cli.report import explanations, lines_of, table
from pvae.evaluation import impute
from pvae.pair.predictive import infer, sample
from pvae.pair.preserve import seeded
from pvae.training import Fit, load
from pvae.training.processes import process_group
from pvae.training.run import Run

__all__ = ["evaluate_", "impute_", "infer_", "sample_"]


@main.command("evaluate")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--split", type=SPLITS, help="Split to use.  [default: test, or else valid, or else train]"
)
@click.option("--data", "data_name", help="Use another data set than the run's.")
@click.option(
    "--num-particles",
    "--particles",
    type=AT_LEAST_1,
    default=1000,
    help="Number of importance samples per datum.",
)
@click.option(
    "--full",
    is_flag=True,
    help="Add AIS, bidirectional bounds, calibration and the amortization gap, which take minutes.",
)
@click.option("--explain", is_flag=True, help="Explain each number below the table.")
@click.option("--seed", default=0, help="Seed of the draws.")
@click.option("--device", default="auto", help=DEVICE)
@click.option("--trust", is_flag=True, help=TRUST)
@click.option("--ema", is_flag=True, help=EMA)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option("--progress/--no-progress", default=True, help="Show progress bars.")
def evaluate_(
    run: Path,
    split: str | None,
    data_name: str | None,
    num_particles: int,
    full: bool,
    explain: bool,
    seed: int,
    device: str,
    as_json: bool,
    progress: bool,
    trust: bool,
    ema: bool,
) -> None:
    """Evaluate the pair of RUN: bounds on log p(x), and what each latent site carries.

    Each line of the table is a quantity, its value with the standard error over data, the kind of
    number it is, and a remark. --full uses at most 100 data points. With torchrun, each process
    computes the bounds of its share of the rows.
    """
    with process_group() as rank:
        trained = _load_run(run, device, trust, ema)
        name, rows = split_of(run, split, data_name)
        shown = progress and not as_json
        numbers = evaluate(trained, rows, name, num_particles, full=full, seed=seed, progress=shown)
    if rank:
        return  # the first process says the rest
    if as_json:
        click.echo(json.dumps(numbers.as_json(), indent=2))
        return
    lines = lines_of(numbers)
    click.echo(table(lines, f"{len(rows):,} {name} rows, nats per datum"))
    if explain:
        click.echo(f"\n{explanations(lines)}")


@main.command("sample")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--num-samples", "--n", default=64, help="Number of draws.")
@click.option(
    "--given",
    multiple=True,
    metavar="NAME=VALUE",
    help="Fix a site of the model, or an argument that it conditions on, as in y=3 or z=[0,1].",
)
@click.option("--mean", is_flag=True, help="Take means of observed sites instead of draws.")
@click.option("--seed", default=0, help="Seed of the draws.")
@click.option("--device", default="auto", help=DEVICE)
@click.option("--trust", is_flag=True, help=TRUST)
@click.option("--ema", is_flag=True, help=EMA)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="File to write.  [default: samples.npz in RUN]",
)
def sample_(
    run: Path,
    num_samples: int,
    given: tuple[str, ...],
    mean: bool,
    seed: int,
    device: str,
    trust: bool,
    ema: bool,
    out: Path | None,
) -> None:
    """Draw every site of the model of RUN into an .npz file, and plot the draws."""
    from pvae import plots  # needs matplotlib, which is slow to import

    at_least(1, num_samples=num_samples)
    trained = _load_run(run, device, trust, ema)
    example = Run(run).example()
    index = torch.arange(num_samples) % len(example[0])
    with seeded(seed):
        like = tuple(part[index] for part in example)
        draws = sample(trained.model, like, given=zoo.parse_options(given), mean=mean)
    path = (out or run / "samples.npz").with_suffix(".npz")
    _write(path, {site: value.cpu().numpy() for site, value in draws.items()})
    seen = observed_name(draws, example)
    if seen is not None:
        what = "means of p(x | z), z from its prior" if mean else "draws from p(x)"
        title = f"{what}, given {', '.join(given)}" if given else what
        figure = plots.prior_samples(draws[seen].cpu(), n=num_samples, title=title)
        figure.savefig(path.with_suffix(".png"))


@main.command("infer")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--split", type=SPLITS, help="Split to use.  [default: test, or else valid, or else train]"
)
@click.option("--data", "data_name", help="Use another data set than the run's.")
@click.option(
    "--num-samples",
    type=AT_LEAST_1,
    help="Write this many draws from q(z | x) per datum.  [default: the means]",
)
@click.option("--seed", default=0, help="Seed of the draws.")
@click.option("--device", default="auto", help=DEVICE)
@click.option("--trust", is_flag=True, help=TRUST)
@click.option("--ema", is_flag=True, help=EMA)
@click.option(
    "--out", type=click.Path(path_type=Path), help="File to write.  [default: codes.npz in RUN]"
)
def infer_(
    run: Path,
    split: str | None,
    data_name: str | None,
    num_samples: int | None,
    seed: int,
    device: str,
    trust: bool,
    ema: bool,
    out: Path | None,
) -> None:
    """Write the latent codes of data into an .npz file: one array per site, and the labels.

    Means have the shape (rows, ...), draws (num_samples, rows, ...).
    """
    trained = _load_run(run, device, trust, ema)
    _, rows = split_of(run, split, data_name)
    with seeded(seed):
        found = infer(trained.guide, rows, num_samples=num_samples)
    codes = {site: value.cpu().numpy() for site, value in found.items()}
    if rows.labels is not None:
        codes["labels"] = rows.labels.cpu().numpy()
    _write((out or run / "codes.npz").with_suffix(".npz"), codes)


@main.command("impute")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--split", type=SPLITS, help="Split to use.  [default: test, or else valid, or else train]"
)
@click.option("--data", "data_name", help="Use another data set than the run's.")
@click.option(
    "--num-samples", type=AT_LEAST_1, default=10, help="Number of draws per missing value."
)
@click.option(
    "--num-particles",
    "--particles",
    type=AT_LEAST_1,
    default=100,
    help="Number of importance samples per datum, from which draws are resampled.",
)
@click.option("--seed", default=0, help="Seed of the draws.")
@click.option("--device", default="auto", help=DEVICE)
@click.option("--trust", is_flag=True, help=TRUST)
@click.option("--ema", is_flag=True, help=EMA)
@click.option(
    "--out", type=click.Path(path_type=Path), help="File to write.  [default: imputed.npz in RUN]"
)
def impute_(
    run: Path,
    split: str | None,
    data_name: str | None,
    num_samples: int,
    num_particles: int,
    seed: int,
    device: str,
    trust: bool,
    ema: bool,
    out: Path | None,
) -> None:
    """Write data whose missing values are imputed into an .npz file.

    The arrays are "x", the data with means of the draws in the place of missing numbers, of "pos"
    columns medians, and the most frequent draw in that of missing classes; "draws",
    (num_samples, rows, ...); "missing"; and "ess", the effective sample size of each row.
    """
    trained = _load_run(run, device, trust, ema)
    _, rows = split_of(run, split, data_name)
    if rows.missing is None or not rows.missing.any():
        raise ValueError(
            "no value of these data is missing: train with --missing nan, or give --data with holes"
        )
    found = impute(
        trained.model, trained.guide, rows, num_samples=num_samples, num_particles=num_particles,
        seed=seed,
    )  # fmt: skip
    columns = (Run(run).config().get("pair") or {}).get("defaults", {}).get("columns")
    x = found.by_column(columns) if columns else found.mean
    arrays = {"x": x, "draws": found.draws, "missing": found.missing, "ess": found.ess}
    path = (out or run / "imputed.npz").with_suffix(".npz")
    _write(path, {name: value.cpu().numpy() for name, value in arrays.items()})


def _load_run(run: Path, device: str, trust: bool, ema: bool) -> Fit:
    trained = load(run, device=device, trust=trust, ema=ema)
    print_notes(trained.notes)
    return trained


def _write(path: Path, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    shapes = ", ".join(f"{name} {value.shape}" for name, value in arrays.items())
    click.echo(f"{path}: {shapes}")
