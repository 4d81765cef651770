"""Print the numbers of a pair as a table; whole, as each quantity has one short function here."""

import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pvae.cli.numbers import Numbers
from pvae.evaluation import (
    AmortizationGap,
    AnnealedLogLikelihood,
    Bound,
    Calibration,
    ClassAccuracy,
    Estimate,
    LatentUse,
    LogLikelihood,
    LogPredictive,
    Probe,
    Sandwich,
)

__all__ = ["WIDTH", "Line", "explanations", "lines_of", "table"]

WIDTH = 100


@dataclass(frozen=True)
class Line:
    """One line of the table.

    Attributes:
        quantity: its name.
        value: the number with its error, or a short text.
        kind: what the number is: a bound, a divergence, ...
        remark: a few words.
        explanation: a sentence for `--explain`; "" for none.
    """

    quantity: str
    value: str
    kind: str = ""
    remark: str = ""
    explanation: str = ""


def lines_of(numbers: Numbers) -> list[Line]:
    """The lines of the table."""
    lines = [line for name, result in numbers.found.items() for line in _LINES[name](result)]
    return [*lines, *(_missing(name, why) for name, why in numbers.missing.items())]


def table(lines: Sequence[Line], title: str = "") -> str:
    """The lines in aligned columns, at most `WIDTH` characters wide; remarks are wrapped.

    Args:
        lines: lines of the table.
        title: a line above it.
    """
    widths = [
        max((len(cell) for cell in column), default=0)
        for column in zip(*((line.quantity, line.value, line.kind) for line in lines), strict=True)
    ]
    start = sum(widths) + 2 * len(widths)
    printed = [title] if title else []
    for line in lines:
        cells = (line.quantity, line.value, line.kind)
        if not line.kind and not line.remark:  # a text may run over the columns to its right
            cells = (line.quantity, line.value, "")
        head = "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        wrapped = textwrap.wrap(line.remark, max(20, WIDTH - start)) or [""]
        printed.append(f"{head}  {wrapped[0]}".rstrip())
        printed += [" " * start + more for more in wrapped[1:]]
    return "\n".join(printed)


def explanations(lines: Sequence[Line]) -> str:
    """The explanations of the lines, one paragraph each."""
    paragraphs = [
        textwrap.fill(f"{line.quantity.strip()}: {line.explanation}", WIDTH, subsequent_indent="  ")
        for line in lines
        if line.explanation
    ]
    return "\n".join(paragraphs)


def _bound(bound: Bound) -> Iterator[Line]:
    joint = bool(bound.points)
    yield Line(
        f"{'bound on ' if bound.sites.keys() > {'x', *bound.points} else ''}{bound.quantity}"
        if joint
        else "ELBO",
        _number(bound),
        "at point masses" if joint else "lower bound",
        f"{bound.num_particles} draws per datum{'; ' + bound.note if bound.note else ''}",
        "E_q[log p(x, z) - log q(z | x)], a lower bound on log p(x). The lines below it are its "
        "terms: the expected log-likelihood of each observed site, and minus the KL divergence of "
        f"each latent site. {_monte_carlo(bound)}",
    )
    for site, value in bound.sites.items():
        yield Line(f"  {site}", f"{value:9.2f}")


def _averaged_bound(bound: Bound) -> Iterator[Line]:
    yield Line(
        "ELBO, averaged",
        _number(bound),
        "lower bound",
        "with the moving average of the parameters",
        "the bound of the pair whose parameters are their exponential moving average over steps.",
    )


def _likelihood(found: LogLikelihood) -> Iterator[Line]:
    yield Line(
        "log p(x)",
        _number(found),
        "lower bound, expected",
        f"{found.num_particles:,} importance samples",
        "log mean_k p(x, z_k) / q(z_k | x), by importance sampling with the guide as proposal. It "
        "is a lower bound in expectation, and tight as the samples increase. "
        f"{_monte_carlo(found)}",
    )
    size, unreliable, unknown = len(found.khat), len(found.untrusted), len(found.unknown)
    ess = found.ess.mean().item()
    if unreliable:
        yield Line(
            "  diagnostic",
            "unreliable",
            f"{unreliable:,} of {size:,} data",
            "Pareto k too high: add particles",
            found.warning,
        )
    elif unknown:
        yield Line(
            "  diagnostic",
            "unknown",
            f"{unknown:,} of {size:,} data",
            "equal weights, or too few",
            "the largest importance weights of these data are equal, or there are too few samples: "
            "the guide is the posterior, or it never proposes a part of it, which no diagnostic of "
            "its samples can show.",
        )
    else:
        yield Line(
            "  diagnostic",
            "reliable",
            f"all {size:,} data",
            f"{ess:.0f} effective samples each",
            "the Pareto k of the importance weights of every datum is low enough for this number "
            "of samples, so the errors can be trusted.",
        )
    if found.bits_per_dim is not None:
        yield Line(
            "  bits per dim",
            f"{found.bits_per_dim:9.3f}",
            "upper bound, expected",
            f"{found.dims:g} elements",
            "the code length -log2 p(x) per element of a datum.",
        )


def _predictive(found: LogPredictive) -> Iterator[Line]:
    yield Line(
        "log p(x | data)",
        _number(found),
        "lower bound, expected",
        f"{found.num_samples:,} draws of global sites",
        "the predictive density log mean_s p(x_n | w_s) of each datum, with draws w_s of global "
        f"sites from the guide. {_monte_carlo(found)}",
    )


def _use(use: LatentUse) -> Iterator[Line]:
    for name, site in use.divergence.items():
        units = use.active.sites[name]
        collapsed = " (collapsed)" if name in use.collapsed else ""
        yield Line(
            f"KL(q || p) of {name}",
            _number(site),
            "divergence",
            f"{units.count} of {len(units.variance)} units active{collapsed}",
            f"the divergence from posterior to prior at site {name!r}. A unit is active if the "
            f"variance of its posterior mean over {use.active.num_data:,} data is above "
            f"{use.active.threshold:g}. {use.collapsed.get(name, '')}",
        )
    if use.information is not None:
        parts = use.information
        yield Line(
            "I(x; z)",
            _number(parts.mutual_information),
            "lower bound, expected",
            f"at most {parts.ceiling:.2f} with {parts.num_data:,} data",
            f"the mutual information of x and z under q. {parts.sentence}",
        )
        yield Line(
            "KL(q(z) || p(z))",
            _number(parts.aggregated),
            "upper bound, expected",
            f"{parts.num_data:,} data",
            "the divergence from the aggregated posterior, the mean of q(z | x) over data, to the "
            "prior.",
        )
    elif use.undefined:
        yield _missing("information", use.undefined)


def _classes(found: ClassAccuracy) -> Iterator[Line]:
    yield Line(
        f"accuracy of {found.site}",
        f"{found.accuracy:9.1%}",
        "of labels",
        f"{found.matched:.1%} after the best one-to-one assignment",
        f"the share of data whose most probable class at site {found.site!r} is their label. The "
        "assignment of classes to labels makes use of the labels: it is for clusters that were "
        "found without them.",
    )


def _probe(found: Probe) -> Iterator[Line]:
    yield Line(
        "probe of codes",
        f"{found.linear:9.1%}",
        "of labels",
        f"logistic regression; {found.nearest:.1%} by 5 nearest codes",
        f"the accuracy of classifiers that read the means of {', '.join(found.sites)}, fitted to "
        f"{found.num_data:,} training data.",
    )


def _ais(found: AnnealedLogLikelihood) -> Iterator[Line]:
    yield Line(
        "log p(x) by AIS",
        _number(found),
        "lower bound, expected",
        f"{found.num_particles} chains, {_rows(found)} data",
        "annealed importance sampling from q(z | x) to p(x, z) by Hamiltonian Monte Carlo: a lower "
        "bound in expectation, tight as temperatures increase.",
    )


def _sandwich(found: Sandwich) -> Iterator[Line]:
    how = f"{_rows(found.gap)} data drawn from the model"
    yield Line("BDMC, lower", _number(found.lower), "lower bound, expected", how)
    yield Line("BDMC, upper", _number(found.upper), "upper bound, expected", how)
    yield Line(
        "  gap",
        _number(found.gap),
        "difference",
        "",
        "bidirectional Monte Carlo bounds log p(x) of simulated data from both sides; the gap says "
        "how far AIS with these settings may be off on data like the model's own.",
    )


def _calibration(found: Calibration) -> Iterator[Line]:
    yield Line(
        "calibration of q",
        f"p = {found.p_value:9.2g}",
        "test",
        f"{found.num_data:,} simulated data",
        f"simulation-based calibration: {found.sentence}.",
    )


def _amortization(found: AmortizationGap) -> Iterator[Line]:
    yield Line(
        "amortization gap",
        _number(found),
        "lower bound, expected",
        f"{_rows(found)} data",
        f"the bound rises from {found.guide:.2f} to {found.fitted:.2f} nats when q is fitted to "
        "each datum instead of computed by one network.",
    )


def _missing(name: str, why: str) -> Line:
    return Line(name.replace("_", " "), "undefined", "", why)


_LINES: dict[str, Callable[[Any], Iterator[Line]]] = {
    "elbo": _bound,
    "elbo_ema": _averaged_bound,
    "log_likelihood": _likelihood,
    "log_predictive": _predictive,
    "latent_use": _use,
    "classes": _classes,
    "probe": _probe,
    "ais": _ais,
    "bdmc": _sandwich,
    "calibration": _calibration,
    "amortization_gap": _amortization,
}


def _rows(estimate: Estimate) -> str:
    return f"{len(estimate.per_datum):,}"


def _number(estimate: Estimate) -> str:
    """The mean with its standard error over data, which contains the Monte Carlo error."""
    return f"{estimate.mean:9.2f} ± {estimate.std_error:.2f}"


def _monte_carlo(estimate: Estimate) -> str:
    if not estimate.mc_error >= 0:
        return ""
    return f"With another seed it would change by about {estimate.mc_error:.3f} nats."
