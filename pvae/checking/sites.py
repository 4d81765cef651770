"""Do the guide's latent sites match the model's?"""

from collections.abc import Iterator

from pyro import poutine
from pyro.poutine.util import site_is_subsample

from pvae.checking.finding import Finding

__all__ = ["unmatched_sites"]


def unmatched_sites(model_trace: poutine.Trace, guide_trace: poutine.Trace) -> Iterator[Finding]:
    """Latent sites that one of the programs lacks."""
    latent = _latent(model_trace)
    proposed = _latent(guide_trace)
    missing = [
        name
        for name in latent
        # A site that the objective sums out is the model's alone.
        if name not in proposed and not model_trace.nodes[name]["infer"].get("enumerate")
    ]
    for name in missing:
        yield Finding(
            "error",
            f"guide has no site {name!r}; the model samples {latent}, the guide {proposed}: "
            "add one to the guide, or observe it in the model",
        )
    for name in proposed:
        auxiliary = guide_trace.nodes[name]["infer"].get("is_auxiliary")
        if name not in latent and not auxiliary:
            observed = name in model_trace.nodes
            what = "observes it" if observed else "has no such site"
            yield Finding(
                "error",
                f"guide samples {name!r}, but the model {what}; its latent sites are {latent}: "
                'rename the site, or mark it with infer={"is_auxiliary": True}',
            )


def _latent(trace: poutine.Trace) -> list[str]:
    return [
        name
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not site["is_observed"] and not site_is_subsample(site)
    ]
