"""Traces of a pair, and the sample sites in them."""

from collections.abc import Callable, Iterator
from typing import Any, cast

from pyro import poutine
from pyro.poutine.util import site_is_factor, site_is_subsample
from torch import Tensor

__all__ = ["Site", "latent_sites", "observed_sites", "paired_traces", "sample_sites"]

Site = dict[str, Any]


def paired_traces(
    model: Callable[..., object], guide: Callable[..., object], batch: tuple[Tensor, ...]
) -> tuple[poutine.Trace, poutine.Trace]:
    """A trace of the model replayed against one of the guide, and that one."""
    guide_trace = poutine.trace(guide).get_trace(*batch)
    model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*batch)
    return model_trace, guide_trace


def sample_sites(trace: poutine.Trace) -> Iterator[tuple[str, Site]]:
    """The sample sites by name, without those by which plates draw their indices."""
    for name, site in trace.nodes.items():
        if site["type"] != "sample" or site_is_subsample(site):
            continue
        if not (site["infer"] or {}).get("_deterministic"):  # a value, of no probability
            yield name, cast(Site, site)


def latent_sites(trace: poutine.Trace) -> dict[str, Site]:
    """The sites that are not observed."""
    return {name: site for name, site in sample_sites(trace) if not site["is_observed"]}


def observed_sites(trace: poutine.Trace) -> dict[str, Site]:
    """The sites that are observed; a `pyro.factor` observes nothing."""
    return {
        name: site
        for name, site in sample_sites(trace)
        if site["is_observed"] and not site_is_factor(cast(Any, site))
    }
