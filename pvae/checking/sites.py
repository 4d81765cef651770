"""Do the guide's latent sites match the model's?"""

from collections.abc import Iterator

from pyro import poutine

from pvae.checking.finding import Finding
from pvae.traces import latent_sites

__all__ = ["unmatched_sites"]


def unmatched_sites(model_trace: poutine.Trace, guide_trace: poutine.Trace) -> Iterator[Finding]:
    """Latent sites that one of the programs lacks."""
    latent, proposed = latent_sites(model_trace), latent_sites(guide_trace)
    missing = [
        name
        for name, site in latent.items()
        # A site that the objective sums out is the model's alone.
        if name not in proposed and not site["infer"].get("enumerate")
    ]
    for name in missing:
        yield Finding(
            "error",
            f"guide has no site {name!r}; the model samples {list(latent)}, the guide "
            f"{list(proposed)}: "
            "add one to the guide, or observe it in the model",
        )
    for name, site in proposed.items():
        if name not in latent and not site["infer"].get("is_auxiliary"):
            observed = name in model_trace.nodes
            what = "observes it" if observed else "has no such site"
            yield Finding(
                "error",
                f"guide samples {name!r}, but the model {what}; its latent sites are "
                f"{list(latent)}: give it one of these names, or mark it with "
                "infer={'is_auxiliary': True}",
            )
