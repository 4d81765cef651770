"""Traces of a pair, and the sample sites in them."""

from collections.abc import Callable, Iterator
from typing import Any, cast

from pyro import poutine
from pyro.distributions import TransformedDistribution
from pyro.poutine.util import site_is_factor, site_is_subsample
from torch import Tensor

__all__ = [
    "PROGRAM_ERRORS",
    "Site",
    "guide_trace_of",
    "latent_sites",
    "observed_sites",
    "paired_traces",
    "sample_sites",
]

Site = dict[str, Any]

# What a program raises that does not fit its data or its partner.
PROGRAM_ERRORS = (
    RuntimeError,
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    AttributeError,
    AssertionError,
    ArithmeticError,
)


def paired_traces(
    model: Callable[..., object], guide: Callable[..., object], batch: tuple[Tensor, ...]
) -> tuple[poutine.Trace, poutine.Trace]:
    """A trace of the model, replayed against a trace of the guide, and the guide's trace."""
    guide_trace = guide_trace_of(guide, *batch)
    model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*batch)
    return model_trace, guide_trace


def guide_trace_of(guide: Callable[..., object], *batch: object) -> poutine.Trace:
    """A trace of the guide that knows the densities of its draws.

    A flow without an inverse knows the density of its last draw alone, and forgets it when it draws
    again. As in Pyro's objectives, it is asked at once.
    """
    trace = poutine.trace(guide).get_trace(*batch)
    for site in latent_sites(trace).values():
        fn = site["fn"]
        while hasattr(fn, "base_dist") and not isinstance(fn, TransformedDistribution):
            fn = fn.base_dist
        if isinstance(fn, TransformedDistribution):
            site["unscaled_log_prob"] = site["fn"].log_prob(site["value"])
    return trace


def sample_sites(trace: poutine.Trace) -> Iterator[tuple[str, Site]]:
    """The sample sites by name, without `pyro.deterministic` and the indices of plates."""
    for name, site in trace.nodes.items():
        if site["type"] != "sample" or site_is_subsample(site):
            continue
        if not (site["infer"] or {}).get("_deterministic"):
            yield name, cast(Site, site)


def latent_sites(trace: poutine.Trace) -> dict[str, Site]:
    """The sites that are not observed."""
    return {name: site for name, site in sample_sites(trace) if not site["is_observed"]}


def observed_sites(trace: poutine.Trace) -> dict[str, Site]:
    """The observed sites, without `pyro.factor`."""
    return {
        name: site
        for name, site in sample_sites(trace)
        if site["is_observed"] and not site_is_factor(cast(Any, site))
    }
