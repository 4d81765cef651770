"""Does the objective fit the pair?"""

from collections.abc import Iterator

from pyro.infer import (
    ReweightedWakeSleep,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
    TraceTMC_ELBO,
)

from pvae.checking.inspection import Inspection
from pvae.checking.report import Finding
from pvae.objectives import IncompatibleObjectiveError, Objective
from pvae.pair.distributions import distribution_name
from pvae.pair.traces import latent_sites

__all__ = ["draws_without_gradient", "enumeration_without_effect", "incompatible_objective"]


def incompatible_objective(inspection: Inspection) -> Iterator[Finding]:
    """Whether the objective itself rejects the pair."""
    objective = inspection.objective
    if not isinstance(objective, Objective):
        return
    programs = inspection.pair.model, inspection.pair.guide
    try:
        objective.prepare(*programs, *inspection.batch)
    except IncompatibleObjectiveError as error:
        yield Finding("error", str(error))


def enumeration_without_effect(inspection: Inspection) -> Iterator[Finding]:
    """Sites that are annotated for enumeration, under an objective that draws them."""
    objective = inspection.objective
    if isinstance(objective, TraceEnum_ELBO | TraceTMC_ELBO):
        return
    drawn = latent_sites(inspection.guide)
    for name, site in {**latent_sites(inspection.model), **drawn}.items():
        if not site["infer"].get("enumerate"):
            continue
        of = type(objective).__name__
        yield Finding.at(
            inspection.location("guide" if name in drawn else "model", name),
            "warning" if name in drawn else "error",
            f"site {name!r} is annotated for enumeration, and {of} does not enumerate: "
            + (
                "it is drawn"
                if name in drawn
                else "it is drawn from its prior, whose parameters get a wrong gradient"
            )
            + "; use TraceEnum_ELBO, or remove the annotation",
        )


def draws_without_gradient(inspection: Inspection) -> Iterator[Finding]:
    """Sites that are not reparameterized, under an objective that needs it."""
    objective = inspection.objective
    if isinstance(objective, TraceGraph_ELBO | ReweightedWakeSleep):
        return
    wrong = isinstance(objective, TraceMeanField_ELBO)
    if not wrong and not isinstance(objective, Trace_ELBO | TraceEnum_ELBO):
        return
    for name, site in latent_sites(inspection.guide).items():
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
            inspection.location("guide", name),
            "error" if wrong else "warning",
            f"site {name!r} is not reparameterized ({kind}): {what}",
        )
