"""The numbers of a trained pair on one split of the data."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch

from pvae.data import Rows
from pvae.evaluation import (
    Bound,
    EvaluationContext,
    UndefinedQuantityError,
    ais,
    amortization_gap,
    bdmc,
    calibration,
    class_accuracy,
    elbo,
    latent_use,
    log_likelihood,
    log_predictive,
    probe,
)
from pvae.training import Fit

__all__ = ["Numbers", "evaluate"]

_BOUND_PARTICLES = 10
_COSTLY_ROWS = 100  # data that the costly quantities are computed on, at most
_CHAINS = 8


@dataclass
class Numbers:
    """The numbers of a pair on one split of the data.

    Attributes:
        split: name of the split.
        rows: number of data in it.
        found: the results, keyed by name: "elbo", with a moving average of the parameters
            "elbo_ema", "log_likelihood" (for pairs with global sites
            "log_predictive"), "latent_use", with labels "classes" and "probe", and with `full`
            "ais", "bdmc", "calibration", "amortization_gap".
        missing: keyed by name, why a quantity is not defined for the pair, in a sentence.
    """

    split: str
    rows: int
    found: dict[str, Any] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, object]:
        """The numbers for JSON, in nats per datum."""
        numbers = {name: result.as_json() for name, result in self.found.items()}
        sites = self.found["elbo"].sites if "elbo" in self.found else {}
        return {
            "split": self.split,
            "rows": self.rows,
            **numbers,
            "sites": sites,
            "missing": self.missing,
        }


def evaluate(
    fit: Fit,
    rows: Rows,
    split: str,
    num_particles: int,
    *,
    full: bool = False,
    train: Rows | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Numbers:
    """Evaluate a trained pair on a split.

    Args:
        fit: the trained pair.
        rows: the split.
        split: its name.
        num_particles: importance samples per datum.
        full: add the quantities that take minutes, on at most 100 of the data: annealed importance
            sampling, bidirectional Monte Carlo, calibration and the amortization gap.
        train: rows that simple classifiers of codes are fitted to, where there are labels.
        seed: seeds the draws.
        progress: show progress bars.
    """
    numbers = Numbers(split, len(rows))
    pair = fit.model, fit.guide
    few = min(num_particles, _BOUND_PARTICLES)
    chosen = torch.linspace(0, len(rows) - 1, min(_COSTLY_ROWS, len(rows))).long()
    some = rows.arguments(chosen)
    data: object = rows
    with suppress(UndefinedQuantityError):  # each quantity raises it itself
        data = EvaluationContext(*pair, rows)
    quantities: dict[str, Callable[[], object]] = {
        "elbo": lambda: elbo(*pair, data, few, seed=seed, progress=progress),
        "log_likelihood": lambda: log_likelihood(
            *pair, data, num_particles, seed=seed, progress=progress
        ),
        "latent_use": lambda: latent_use(*pair, data, num_particles=few, seed=seed),
    }
    if fit.average is not None:
        quantities["elbo_ema"] = lambda: _averaged_bound(fit, data, few, seed)
    if isinstance(data, EvaluationContext) and data.global_sites:  # no log p(x) of single data
        del quantities["log_likelihood"]
        quantities["log_predictive"] = lambda: log_predictive(
            *pair, data, num_particles=few, seed=seed, progress=progress
        )
    if rows.labels is not None:
        quantities |= {"classes": lambda: class_accuracy(*pair, rows)}
        if train is not None and train.labels is not None:
            quantities |= {"probe": lambda: probe(fit.guide, train, rows)}
    if full:
        quantities |= {
            "ais": lambda: ais(*pair, some, _CHAINS, seed=seed, progress=progress),
            "bdmc": lambda: bdmc(*pair, some, _CHAINS, seed=seed, progress=progress),
            "calibration": lambda: calibration(*pair, some, seed=seed),
            "amortization_gap": lambda: amortization_gap(*pair, some, seed=seed),
        }
    for name, compute in quantities.items():
        try:
            numbers.found[name] = compute()
        except UndefinedQuantityError as error:
            if name not in ("classes", "probe"):  # few pairs have classes
                numbers.missing[name] = str(error)
    return numbers


def _averaged_bound(fit: Fit, data: object, num_particles: int, seed: int) -> Bound:
    """The bound with the moving average of the parameters."""
    with fit.averaged():
        return elbo(fit.model, fit.guide, data, num_particles, seed=seed)
