"""The commands about pairs that are not trained yet: check, bench, list."""

import json
import sys
from collections.abc import Mapping
from typing import Any

import click
import torch
from torch import Tensor

from pvae import data, likelihoods, objectives, zoo
from pvae.checking import PairError, check
from pvae.cli.bench import PYRO, Timings, contenders, machine
from pvae.cli.group import AT_LEAST_1, main, of_a_pair, print_notes
from pvae.cli.invocation import make_objective, pair_and_data
from pvae.cli.report import table
from pvae.data import batches
from pvae.pair.preserve import seeded
from pvae.training.devices import find_device
from pvae.zoo import Built

__all__ = ["bench_", "check_", "list_"]


@main.command("check")
@of_a_pair
@click.option("--batch-size", type=AT_LEAST_1, help="Data to check with.  [default: 128]")
@click.option("--seed", default=0, help="Seeds initial draws and the choice of data.")
def check_(**given: Any) -> None:
    """Look for mistakes in MODEL and GUIDE; exits with 1 where training would be wrong.

    Prints the sites of both programs with their shapes, then a line for each finding.
    """
    built, batch = _pair_and_batch(given, torch.device("cpu"))
    try:
        with seeded(given["seed"]):
            objective = make_objective(given["objective"], batch[0].shape[1:])
            report = check(built.model, built.guide, *batch, objective=objective)
    except PairError as error:
        for finding in error.findings:
            click.echo(f"{finding.severity}: {finding}")
        sys.exit(1)
    click.echo(str(report))


@main.command("bench")
@of_a_pair
@click.option("--batch-size", type=AT_LEAST_1, help="Data per step.  [default: 128]")
@click.option("--rounds", type=click.IntRange(min=2), default=40, help="Turns of each way.")
@click.option("--device", default="auto", help="auto, cpu, cuda, ...")
@click.option("--seed", default=0, help="Seeds everything.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def bench_(**given: Any) -> None:
    """Time a gradient step of MODEL and GUIDE: Pyro's SVI beside the engines of pvae."""
    device = find_device(given["device"])
    built, batch = _pair_and_batch(given, device)
    with seeded(given["seed"]):
        objective = make_objective(given["objective"], batch[0].shape[1:])
        ways, own = contenders(built.model, built.guide, batch, objective)
        timings = Timings.measure(ways, given["rounds"])
    notes = [f"{name}: {note}" for name, svi in own.items() for note in svi.notes]
    if given["as_json"]:
        found = {"milliseconds": timings.as_json(), "notes": notes, "machine": machine(device)}
        click.echo(json.dumps({"batch": len(batch[0]), **found}, indent=2))
        return
    click.echo(f"milliseconds a step of {len(batch[0])} data on {device}: median and quartiles")
    click.echo(table(timings.lines(PYRO)))
    print_notes(notes)


@main.command("list")
def list_() -> None:
    """Print the models, guides, data sets, likelihoods and objectives that have names."""
    for title, role in (("models", "model"), ("guides", "guide")):
        click.echo(f"{title}:")
        for entry in zoo.entries(role):
            options = ", ".join(f"{name}={value}" for name, value in entry.options)
            click.echo(f"  {entry.name:<12} {entry.summary} [{options}]")
    for title, known in (
        ("data", data.names),
        ("likelihoods", likelihoods.names),
        ("objectives", objectives.names),
    ):
        click.echo(f"{title}:\n  {', '.join(known)}")


def _pair_and_batch(
    given: Mapping[str, Any], device: torch.device
) -> tuple[Built, tuple[Tensor, ...]]:
    """The pair, and the first batch of its training."""
    built, of_data = pair_and_data(given)
    size = given["batch_size"] or min(128, len(of_data.train))
    source = batches(of_data.train, batch_size=size, device=device, seed=given["seed"])
    return built, next(source.epoch(0))
