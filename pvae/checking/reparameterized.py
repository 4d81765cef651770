"""Can the objective differentiate through the guide's draws?"""

from collections.abc import Iterator

from pyro.infer import (
    ReweightedWakeSleep,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
)

from pvae.checking.finding import Finding
from pvae.checking.inspection import Subject
from pvae.pair.distributions import distribution_name
from pvae.pair.traces import latent_sites

__all__ = ["draws_without_gradient"]


def draws_without_gradient(subject: Subject) -> Iterator[Finding]:
    """Sites that cannot be reparameterized, under an objective that relies on it."""
    objective = subject.objective
    if isinstance(objective, TraceGraph_ELBO | ReweightedWakeSleep):
        return
    wrong = isinstance(objective, TraceMeanField_ELBO)
    if not wrong and not isinstance(objective, Trace_ELBO | TraceEnum_ELBO):
        return
    for name, site in latent_sites(subject.guide).items():
        if site["fn"].has_rsample or site["infer"].get("enumerate"):
            continue
        kind, of = distribution_name(site["fn"]), type(objective).__name__
        what = (
            f"{of} has no gradient of the draw: the guide's would be wrong; use TraceGraph_ELBO"
            if wrong
            else f"{of} estimates its gradient by the score function, which is unbiased but noisy; "
            "TraceGraph_ELBO with a baseline or a relaxed distribution has less variance, "
            'TraceEnum_ELBO with infer={"enumerate": "parallel"} sums it out'
        )
        yield Finding.at(
            subject.place("guide", name),
            "error" if wrong else "warning",
            f"site {name!r} is not reparameterized ({kind}): {what}",
        )
