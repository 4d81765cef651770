"""Do the observed data lie in the support of their distribution, and in its shape?"""

from collections.abc import Iterator
from typing import Any, cast

import torch
from pyro.distributions import Distribution, constraints
from torch import Tensor

from pvae.checking.finding import Finding
from pvae.checking.inspection import Subject
from pvae.pair.locations import Place
from pvae.pair.traces import Site, observed_sites

__all__ = ["data_outside_support", "distribution_name", "elementwise_support", "not_validated"]

_FOR_GREY = (
    'binarize them (binarize="dynamic", "static" or "threshold"), or use a likelihood that fits '
    "grey levels: continuous_bernoulli, discretized_logistic, categorical or gaussian"
)
_FOR_OTHER = (
    "counts fit a Poisson or a NegativeBinomial, real numbers a gaussian likelihood; divide grey "
    "levels by their largest value"
)


def data_outside_support(subject: Subject) -> Iterator[Finding]:
    """Observed values that their distribution cannot give, or that have another shape."""
    for name, site in observed_sites(subject.model).items():
        place = subject.place("model", name)
        value = site["value"]
        wrong = _wrong_shape(place, name, site, value) or _outside(place, name, site, value)
        if wrong is not None:
            yield wrong


def _wrong_shape(place: Place | None, name: str, site: Site, value: Tensor) -> Finding | None:
    expected = site["fn"].shape()
    try:
        fits = torch.broadcast_shapes(expected, value.shape) == expected
    except RuntimeError:
        fits = False
    if fits or site["infer"].get("enumerate"):
        return None
    fn = site["fn"]
    batch, event = tuple(fn.batch_shape), tuple(fn.event_shape)
    return Finding.at(
        place,
        "error",
        f"site {name!r} observes data of shape {tuple(value.shape)}, but its distribution "
        f"{distribution_name(fn)} has shape {tuple(expected)} (batch {batch}, event {event}): give "
        "the network the data's shape, or flatten the data in both programs",
    )


def _outside(place: Place | None, name: str, site: Site, value: Tensor) -> Finding | None:
    support = elementwise_support(site["fn"])
    if support is None:
        return None
    inside = support.check(value)
    if inside.all():
        return None
    kind = distribution_name(site["fn"])
    wrong = value[~inside].flatten()[0].item() if inside.shape == value.shape else None
    example = f", such as {wrong:.4g}" if wrong is not None else ""
    low, high = value.min().item(), value.max().item()
    advice = "transform the data, or use a distribution that fits them"
    if kind.endswith("Bernoulli"):
        advice = _FOR_GREY if low >= 0 and high <= 1 else _FOR_OTHER
    meant = not_validated(site["fn"])
    said = "; it was made with validate_args=False, so this may be meant" if meant else ""
    return Finding.at(
        place,
        "warning" if meant else "error",
        f"site {name!r} observes values outside the support of {kind}{example} (the data go from "
        f"{low:.4g} to {high:.4g}): {advice}{said}",
    )


def not_validated(fn: Distribution) -> bool:
    """Whether the user made a distribution with validate_args=False, in a validated run."""
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return vars(fn).get("_validate_args") is False


def elementwise_support(fn: Distribution) -> constraints.Constraint | None:
    """The support of a single element, or of what cannot be taken apart; None if unknown."""
    try:
        support: constraints.Constraint | None = cast(Any, fn).support
    except NotImplementedError:
        return None
    while isinstance(support, constraints.independent):  # `to_event` only collects elements
        support = support.base_constraint
    return support


def distribution_name(fn: Distribution) -> str:
    """What the user called: Normal, where it was wrapped and expanded since."""
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return type(fn).__name__
