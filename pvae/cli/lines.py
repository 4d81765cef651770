"""Each quantity in words: its number, errors, sample size and the kind of bound that it is."""

from collections.abc import Callable, Iterator
from typing import Any

from pvae.evaluation import (
    AmortizationGap,
    AnnealedLogLikelihood,
    Bound,
    Calibration,
    Estimate,
    LatentUse,
    LogLikelihood,
    Sandwich,
)

__all__ = ["lines_of"]

Line = tuple[str, str]


def lines_of(name: str, result: object, split: str) -> list[Line]:
    """The lines of the table that one quantity takes.

    Args:
        name: of the quantity.
        result: what was computed.
        split: name of the data that it was computed on.
    """
    return list(_WORDS[name](result, split))


def _bound(bound: Bound, split: str) -> Iterator[Line]:
    how = f"{bound.num_particles} draws each"
    yield (
        f"{split} ELBO",
        f"{_number(bound)}, a lower bound on log p(x); {_rows(bound)} {split} rows, {how}",
    )
    for site, value in bound.sites.items():
        yield f"  {site}", f"{value:.2f}"


def _likelihood(found: LogLikelihood, split: str) -> Iterator[Line]:
    yield (
        "log-likelihood",
        f"{_number(found)}, by {found.num_particles:,} importance samples, low in expectation; "
        f"{_rows(found)} {split} rows, effective samples {found.ess.mean().item():.0f} on average",
    )
    if found.bits_per_dim is not None:
        yield "  bits per dimension", f"{found.bits_per_dim:.3f}, over {found.dims} elements"
    if found.warning:
        yield "  not trusted", found.warning


def _use(use: LatentUse, split: str) -> Iterator[Line]:
    for name, site in use.divergence.items():
        units = use.active.sites[name]
        yield (
            f"KL(q || p) of {name}",
            f"{_number(site)}; {units.count} of {len(units.variance)} units active (the posterior "
            f"mean's variance over {use.active.num_data:,} {split} rows above "
            f"{use.active.threshold:g})",
        )
        if name in use.collapsed:
            yield "  collapsed", use.collapsed[name]
    if use.information is not None:
        parts = use.information
        yield (
            "mutual information",
            f"{_number(parts.mutual_information)} between x and z; {parts.sentence}",
        )
        yield (
            "KL(q(z) || p(z))",
            f"{_number(parts.aggregated)} from aggregated posterior to prior, high in expectation; "
            f"{parts.num_data:,} {split} rows",
        )
    elif use.undefined:
        yield "mutual information", use.undefined


def _ais(found: AnnealedLogLikelihood, split: str) -> Iterator[Line]:
    yield (
        "log p(x) by AIS",
        f"{_number(found)}, by {found.num_particles} annealed chains, low in expectation; "
        f"{_rows(found)} {split} rows",
    )


def _sandwich(found: Sandwich, split: str) -> Iterator[Line]:
    yield (
        "log p(x), simulated",
        f"between {_number(found.lower)} and {_number(found.upper)}, a lower and an upper bound in "
        f"expectation; {_rows(found.gap)} data drawn from the model",
    )
    yield "  gap", _number(found.gap)


def _calibration(found: Calibration, split: str) -> Iterator[Line]:
    how = f"{found.num_data:,} data drawn from the model, {found.num_draws} draws each"
    yield "calibration of q(z | x)", f"{found.sentence}; {how}"


def _amortization(found: AmortizationGap, split: str) -> Iterator[Line]:
    yield (
        "amortization gap",
        f"{_number(found)}: the bound rises from {found.guide:.2f} to {found.fitted:.2f} when q is "
        f"fitted to each datum, low in expectation; {_rows(found)} {split} rows",
    )


_WORDS: dict[str, Callable[[Any, str], Iterator[Line]]] = {
    "elbo": _bound,
    "log_likelihood": _likelihood,
    "latent_use": _use,
    "ais": _ais,
    "bdmc": _sandwich,
    "calibration": _calibration,
    "amortization_gap": _amortization,
}


def _rows(estimate: Estimate) -> str:
    return f"{len(estimate.per_datum):,}"


def _number(estimate: Estimate) -> str:
    monte_carlo = f", {estimate.mc_error:.3f} Monte Carlo" if estimate.mc_error >= 0 else ""
    return f"{estimate.mean:.2f} nats (standard errors {estimate.std_error:.2f} data{monte_carlo})"
