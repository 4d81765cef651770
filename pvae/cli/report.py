"""What a trained pair is worth on data: every number with its errors, as a table and as JSON."""

from collections.abc import Callable
from typing import Any

import torch

from pvae.cli.lines import lines_of
from pvae.data import Rows
from pvae.evaluation import (
    UndefinedQuantityError,
    ais,
    amortization_gap,
    bdmc,
    calibration,
    elbo,
    latent_use,
    log_likelihood,
)
from pvae.training.result import Fit

__all__ = ["Report", "evaluate", "table"]

_BOUND_PARTICLES = 10
_COSTLY_ROWS = 100  # data that the costly quantities are computed on, at most
_CHAINS = 8


class Report:
    """The numbers of a pair on one split of the data.

    Attributes:
        split: name of the split.
        rows: number of data in it.
        found: by name, what was computed: "elbo", "log_likelihood", "latent_use"; and "ais",
            "bdmc", "calibration", "amortization_gap" where they were asked for.
        missing: by name, why a quantity is not there, in a sentence.
    """

    def __init__(self, split: str, rows: int) -> None:
        self.split, self.rows = split, rows
        self.found: dict[str, Any] = {}
        self.missing: dict[str, str] = {}

    def as_json(self) -> dict[str, object]:
        """The numbers, in nats per datum."""
        numbers = {name: result.as_json() for name, result in self.found.items()}
        sites = self.found["elbo"].sites
        return {
            "split": self.split,
            "rows": self.rows,
            **numbers,
            "sites": sites,
            "missing": self.missing,
        }

    def lines(self) -> list[tuple[str, str]]:
        """What the table says: a name and a sentence a line."""
        lines = []
        for name, result in self.found.items():
            lines += lines_of(name, result, self.split)
        return [*lines, *((name.replace("_", " "), why) for name, why in self.missing.items())]


def evaluate(
    fit: Fit,
    rows: Rows,
    split: str,
    particles: int,
    *,
    full: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> Report:
    """Evaluate a trained pair on a split.

    Args:
        fit: the trained pair.
        rows: the split.
        split: its name.
        particles: importance samples per datum.
        full: also what takes minutes, on at most 100 of the data: annealed importance sampling, the
            sandwich on simulated data, calibration, the amortization gap.
        seed: seeds the draws.
        progress: show a progress bar.
    """
    report = Report(split, len(rows))
    pair = fit.model, fit.guide
    few = min(particles, _BOUND_PARTICLES)
    chosen = torch.linspace(0, len(rows) - 1, min(_COSTLY_ROWS, len(rows))).long()
    some = rows.arguments(chosen)
    quantities: dict[str, Callable[[], object]] = {
        "elbo": lambda: elbo(*pair, rows, few, seed=seed, progress=progress),
        "log_likelihood": lambda: log_likelihood(
            *pair, rows, particles, seed=seed, progress=progress
        ),
        "latent_use": lambda: latent_use(*pair, rows, num_particles=few, seed=seed),
    }
    if full:
        quantities |= {
            "ais": lambda: ais(*pair, some, _CHAINS, seed=seed, progress=progress),
            "bdmc": lambda: bdmc(*pair, some, _CHAINS, seed=seed, progress=progress),
            "calibration": lambda: calibration(*pair, some, seed=seed),
            "amortization_gap": lambda: amortization_gap(*pair, some, seed=seed),
        }
    for name, compute in quantities.items():
        try:
            report.found[name] = compute()
        except UndefinedQuantityError as error:
            report.missing[name] = str(error)
    return report


def table(lines: list[tuple[str, str]]) -> str:
    """Lines of a name and a text, aligned."""
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in lines)
