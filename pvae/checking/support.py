"""Do the observed data lie in the support of their distribution, and in its shape?"""

from collections.abc import Iterator

import torch
from pyro import poutine
from pyro.distributions import Distribution, constraints
from torch import Tensor

from pvae.checking.finding import Finding
from pvae.traces import Site, observed_sites

__all__ = ["data_outside_support"]

_FOR_GREY = (
    'binarize them (binarize="dynamic", "static" or "threshold"), or use a likelihood that fits '
    "grey levels: continuous_bernoulli, discretized_logistic, categorical or gaussian"
)
_FOR_OTHER = (
    "counts fit a Poisson or a NegativeBinomial, real numbers a gaussian likelihood; divide grey "
    "levels by their largest value"
)


def data_outside_support(
    model_trace: poutine.Trace, guide_trace: poutine.Trace
) -> Iterator[Finding]:
    """Observed values that their distribution cannot give, or that have another shape."""
    for name, site in observed_sites(model_trace).items():
        value = site["value"]
        wrong = _wrong_shape(name, site, value) or _outside(name, site, value)
        if wrong is not None:
            yield wrong


def _wrong_shape(name: str, site: Site, value: Tensor) -> Finding | None:
    expected = site["fn"].shape()
    try:
        fits = torch.broadcast_shapes(expected, value.shape) == expected
    except RuntimeError:
        fits = False
    if fits or site["infer"].get("enumerate"):
        return None
    return Finding(
        "error",
        f"site {name!r} observes data of shape {tuple(value.shape)}, but its distribution "
        f"{_name(site['fn'])} has shape {tuple(expected)} (batch {tuple(site['fn'].batch_shape)}, "
        f"event {tuple(site['fn'].event_shape)}): give the network the data's shape, or flatten "
        "the data in both programs",
    )


def _outside(name: str, site: Site, value: Tensor) -> Finding | None:
    try:
        support = site["fn"].support
    except NotImplementedError:
        return None
    if support is None:
        return None
    # Element by element, to name a value; `to_event` only collects them.
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    inside = support.check(value)
    if inside.all():
        return None
    kind = _name(site["fn"])
    wrong = value[~inside].flatten()[0].item() if inside.shape == value.shape else None
    example = f", such as {wrong:.4g}" if wrong is not None else ""
    low, high = value.min().item(), value.max().item()
    advice = "transform the data, or use a distribution that fits them"
    if kind.endswith("Bernoulli"):
        advice = _FOR_GREY if low >= 0 and high <= 1 else _FOR_OTHER
    return Finding(
        "error",
        f"site {name!r} observes values outside the support of {kind}{example} (the data go from "
        f"{low:.4g} to {high:.4g}): {advice}",
    )


def _name(fn: Distribution) -> str:
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return type(fn).__name__
