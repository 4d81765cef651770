"""The numbers of a trained pair on one split of the data."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch

from pvae._seeds import named_seed
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
from pvae.evaluation.merging import merged
from pvae.training import Fit
from pvae.training.processes import Processes

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
    processes = Processes(seed)
    few = min(num_particles, _BOUND_PARTICLES)
    chosen = torch.linspace(0, len(rows) - 1, min(_COSTLY_ROWS, len(rows))).long()
    some = rows.arguments(chosen)
    data = _context(fit, rows)
    divided = Divided(fit, rows, data, processes)
    quantities: dict[str, Callable[[], object]] = {
        "elbo": lambda: divided(elbo, few, seed=seed, progress=progress),
        "log_likelihood": lambda: divided(
            log_likelihood, num_particles, seed=seed, progress=progress
        ),
        "latent_use": lambda: latent_use(*pair, data, num_particles=few, seed=seed),
    }
    if fit.average is not None:
        quantities["elbo_ema"] = lambda: _averaged_bound(fit, divided, few, seed)
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
        if processes.rank and name not in ("elbo", "elbo_ema", "log_likelihood"):
            continue  # the first process computes it alone
        try:
            numbers.found[name] = compute()
        except UndefinedQuantityError as error:
            if name not in ("classes", "probe"):  # few pairs have classes
                numbers.missing[name] = str(error)
    return numbers


def _context(fit: Fit, rows: Rows) -> object:
    """What is computed once for all quantities; the rows, if the pair has no such context."""
    with suppress(UndefinedQuantityError):  # each quantity raises it itself
        return EvaluationContext(fit.model, fit.guide, rows)
    return rows


class Divided:
    """Computes estimates, of which each process of a group has a part of the rows."""

    def __init__(self, fit: Fit, rows: Rows, data: object, processes: Processes) -> None:
        self.fit, self.data, self.processes = fit, data, processes
        self.numbers = [torch.arange(len(rows))]
        if processes.several and len(rows) >= processes.size:
            every = torch.arange(len(rows))
            self.numbers = [every[rank :: processes.size] for rank in range(processes.size)]
            self.data = _context(fit, rows[self.numbers[processes.rank].to(rows.device)])

    def __call__(
        self, quantity: Callable[..., Any], num_particles: int, *, seed: int, progress: bool = False
    ) -> Any:
        """The estimate on all rows, in every process."""
        rank = self.processes.rank
        own = quantity(
            self.fit.model, self.fit.guide, self.data, num_particles,
            seed=named_seed(seed, "evaluation", rank) if rank else seed,
            progress=progress and not rank,
        )  # fmt: skip
        if len(self.numbers) == 1:
            return own
        return merged(self.processes.gather(own), self.numbers)


def _averaged_bound(fit: Fit, divided: Divided, num_particles: int, seed: int) -> Bound:
    """The bound with the moving average of the parameters."""
    with fit.averaged():
        bound: Bound = divided(elbo, num_particles, seed=seed)
        return bound
