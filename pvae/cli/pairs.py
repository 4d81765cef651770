"""The commands about pairs that are not trained yet: check, bench, list."""

import json
import sys
from collections.abc import Mapping
from typing import Any

import click
import torch
from torch import Tensor

from pvae import data, likelihoods, objectives, priors, zoo
from pvae.checking import PairError, check
from pvae.cli.bench import PYRO, Timings, contenders, machine
from pvae.cli.group import AT_LEAST_1, DEVICE, main, pair_options, print_notes
from pvae.cli.invocation import completed, pair_and_data
from pvae.data import batches
from pvae.pair.missing import filled, marginalized
from pvae.pair.preserve import seeded
from pvae.pair.traces import paired_traces
from pvae.training.devices import find_device
from pvae.zoo import Built

__all__ = ["bench_", "check_", "list_"]


@main.command("check")
@pair_options
@click.option("--batch-size", type=AT_LEAST_1, help="Number of rows to check with.  [default: 128]")
@click.option("--seed", default=0, help="Seed of initialization and of the choice of rows.")
def check_(**given: Any) -> None:
    """Check MODEL and GUIDE for mistakes; exit with 1 if training would be wrong.

    Prints the sites of both programs with their shapes, then one line per finding.
    """
    given = completed(given)
    built, batch = _pair_and_batch(given, torch.device("cpu"))
    try:
        with seeded(given["seed"]):
            options = {"objective": given["objective"], "missing": given["missing"]}
            report = check(built.model, built.guide, *batch, **options)
    except PairError as error:
        for finding in error.findings:
            click.echo(f"{finding.severity}: {finding}")
        sys.exit(1)
    click.echo(str(report))


@main.command("bench")
@pair_options
@click.option("--batch-size", type=AT_LEAST_1, help="Number of rows per step.  [default: 128]")
@click.option(
    "--rounds",
    type=click.IntRange(min=2),
    default=40,
    help="Number of rounds in which each contender is timed.",
)
@click.option("--device", default="auto", help=DEVICE)
@click.option("--seed", default=0, help="Seed of all random numbers.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def bench_(**given: Any) -> None:
    """Time a gradient step of MODEL and GUIDE by Pyro's SVI and by the engines of pvae."""
    device = find_device(given["device"])
    given = completed(given)
    built, batch = _pair_and_batch(given, device)
    model, guide = built.model, built.guide
    if given["missing"]:
        model, guide = marginalized(model), filled(guide)
    with seeded(given["seed"]):
        if given["objective"]:
            objective = objectives.get(given["objective"], x_shape=batch[0].shape[1:])
        else:
            objective = objectives.default_objective(*paired_traces(model, guide, batch))
        ways, own = contenders(model, guide, batch, objective)
        timings = Timings.measure(ways, given["rounds"])
    notes = [f"{name}: {note}" for name, svi in own.items() for note in svi.notes]
    if given["as_json"]:
        found = {"milliseconds": timings.as_json(), "notes": notes, "machine": machine(device)}
        click.echo(json.dumps({"batch": len(batch[0]), **found}, indent=2))
        return
    click.echo(f"milliseconds per step of {len(batch[0])} rows on {device}: median (and quartiles)")
    click.echo(timings.table(PYRO))
    print_notes(notes)


@main.command("list")
def list_() -> None:
    """List the models, guides, data sets, likelihoods, priors and objectives that have names."""
    for title, role in (("models", "model"), ("guides", "guide")):
        click.echo(f"{title}:")
        for entry in zoo.entries(role):
            options = ", ".join(f"{name}={value}" for name, value in entry.options)
            usual = f" Default guide: {entry.usual['guide']}." if entry.usual else ""
            click.echo(f"  {entry.name:<12} {entry.summary}{usual} [{options}]")
    for title, known in (
        ("data", data.names),
        ("likelihoods", likelihoods.names),
        ("priors", priors.names),
        ("objectives", objectives.names),
    ):
        click.echo(f"{title}:\n  {', '.join(known)}")


def _pair_and_batch(
    given: Mapping[str, Any], device: torch.device
) -> tuple[Built, tuple[Tensor, ...]]:
    """The pair, and the first batch of its training."""
    built, splits = pair_and_data(given)
    size = given["batch_size"] or min(128, len(splits.train))
    source = batches(splits.train, batch_size=size, device=device, seed=given["seed"])
    return built, source.first()
