"""Has q(z | x) a density: point masses and auxiliary sites of the guide."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import biject_to

from pvae._seeds import named_seed
from pvae.pair.distributions import is_delta, is_discrete
from pvae.pair.particles import trace_of
from pvae.pair.preserve import seeded
from pvae.pair.traces import Site, latent_sites, sample_sites

__all__ = ["GuideDensity", "guide_density"]


@dataclass(frozen=True)
class GuideDensity:
    """Which sites of a guide have no density of their own.

    Attributes:
        points: continuous latent sites of the model at which the guide puts a point mass.
        transformed: sites that the guide computes from auxiliary ones, with their log_density.
        auxiliary: the auxiliary sites.
        counted: whether log q of the auxiliary and transformed sites is that of the latter: the map
            between them keeps the number of dimensions, as in Pyro's autoguides.
        noise: auxiliary sites from which no site is computed. They are left out of the density:
            given them, log p(x, z) - log q(z | x, noise) is a bound, and its exponential has the
            mean p(x).
    """

    points: tuple[str, ...] = ()
    transformed: tuple[str, ...] = ()
    auxiliary: tuple[str, ...] = ()
    counted: bool = True
    noise: tuple[str, ...] = ()


def guide_density(
    model_trace: poutine.Trace,
    guide_trace: poutine.Trace,
    guide: Callable[..., object],
    batch: tuple[Tensor, ...],
) -> GuideDensity:
    """Find point masses and auxiliary sites of a guide.

    Args:
        model_trace: trace of the model, replayed against `guide_trace`.
        guide_trace: trace of the guide on a batch.
        guide: run once more, with new draws of its auxiliary sites.
        batch: the arguments of the guide.
    """
    prior, proposed = latent_sites(model_trace), latent_sites(guide_trace)
    masses = [
        name
        for name, site in proposed.items()
        if is_delta(site["fn"]) and name in prior and not is_discrete(prior[name]["fn"])
    ]
    auxiliary = [
        name
        for name, site in proposed.items()
        if name not in prior and not is_delta(site["fn"])
        # A guide whose factors take such a site out of log q says so.
        if not (site["infer"] or {}).get("marginalized")
    ]
    if not masses and not auxiliary:
        return GuideDensity()
    kept = {n: s["value"] for n, s in proposed.items() if n not in masses and n not in auxiliary}
    # By a seed of its own, since the generators may be where they were before the first run.
    with seeded(named_seed(0, "auxiliary sites")):
        again = poutine.trace(poutine.replay(guide, trace=trace_of(kept))).get_trace(*batch)
    values = dict(sample_sites(again))
    moved = [n for n in masses if auxiliary and _differ(values[n]["value"], proposed[n]["value"])]
    sizes = (
        sum(proposed[name]["value"].numel() for name in auxiliary),
        sum(_unconstrained(prior[name], proposed[name]["value"]) for name in moved),
    )
    points = tuple(name for name in masses if name not in moved)
    if not moved:
        return GuideDensity(points, auxiliary=tuple(auxiliary), noise=tuple(auxiliary))
    return GuideDensity(points, tuple(moved), tuple(auxiliary), sizes[0] == sizes[1])


def _differ(one: Tensor, other: Tensor) -> bool:
    return one.shape != other.shape or not torch.equal(one, other)


def _unconstrained(site: Site, value: Tensor) -> int:
    """The number of free dimensions of a value."""
    try:
        return int(biject_to(site["fn"].support).inv(value).numel())
    except NotImplementedError:
        return value.numel()
