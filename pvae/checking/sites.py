"""Do the sites of model and guide match: names, shapes, and from run to run?"""

from collections.abc import Collection, Iterator

import torch

from pvae.checking.inspection import Inspection
from pvae.checking.report import Finding
from pvae.pair.guide_density import guide_density
from pvae.pair.preserve import preserve_generators, seeded
from pvae.pair.traces import latent_sites, observed_sites, paired_traces, sample_sites

_SHOWN = 4  # names that a message lists

__all__ = ["auxiliary_sites", "shapes_of_latents", "sites_at_random", "unmatched_sites"]


def unmatched_sites(inspection: Inspection) -> Iterator[Finding]:
    """Latent sites that one of the programs lacks, and data that the guide observes."""
    latent, proposed = latent_sites(inspection.model), latent_sites(inspection.guide)
    if not any(site["is_observed"] for site in inspection.sites("model").values()):
        yield Finding(
            "warning", "the model observes nothing, so the data have no effect: give a site obs=x"
        )
    for name in observed_sites(inspection.guide):
        yield Finding.at(
            inspection.location("guide", name),
            "error",
            f"the guide observes {name!r}, which has no effect: q(z | x) receives the data as its "
            "arguments; remove obs=, or move the statement into the model",
        )
    missing = [
        name
        for name, site in latent.items()
        # A site that the objective sums out belongs to the model only.
        if name not in proposed and not site["infer"].get("enumerate")
    ]
    if missing:
        one = repr(missing[0]) if len(missing) == 1 else ""
        yield Finding.at(
            inspection.location("model", missing[0]),
            "error",
            f"guide has no site {one or _listed(missing)}; the model samples {_listed(latent)}, "
            f"the guide {_listed(proposed)}: add {'one' if one else 'them'} to the guide, or "
            "observe it in the model (obs=x)",
        )
    for name, site in proposed.items():
        if name not in latent and not site["infer"].get("is_auxiliary"):
            observed = name in inspection.model.nodes
            what = "observes it" if observed else "has no such site"
            yield Finding.at(
                inspection.location("guide", name),
                "error",
                f"guide samples {name!r}, but the model {what}; its latent sites are "
                f"{_listed(latent)}: give it one of these names, or mark it with "
                "infer={'is_auxiliary': True}",
            )


def auxiliary_sites(inspection: Inspection) -> Iterator[Finding]:
    """Auxiliary sites of the guide with parameters that no divergence trains."""
    pair = inspection.pair
    with preserve_generators(), torch.enable_grad():
        traces = inspection.model, inspection.guide
        found = guide_density(*traces, pair.guide, inspection.batch)
        sites = inspection.sites("guide")
        trained = [
            name
            for name in found.noise
            if sites[name]["fn"].log_prob(sites[name]["value"].detach()).requires_grad
        ]
    wrong = list(found.auxiliary) if not found.counted else trained
    if wrong:
        yield Finding.at(
            inspection.location("guide", wrong[0]),
            "warning",
            f"the guide's auxiliary sites {wrong} are in no divergence, since the model does not "
            "have them and no site of it is a function of them with as many dimensions, so that "
            "training raises their entropy, too: give the model a distribution of them given z",
        )


def shapes_of_latents(inspection: Inspection) -> Iterator[Finding]:
    """Latent sites whose values the prior would broadcast or reject."""
    proposed = inspection.sites("guide")
    for name, site in latent_sites(inspection.model).items():
        if name not in proposed:
            continue
        own, given = tuple(site["fn"].shape()), tuple(proposed[name]["value"].shape)
        events = len(site["fn"].event_shape), len(proposed[name]["fn"].event_shape)
        try:
            fits = torch.broadcast_shapes(own, given) == given and events[0] == events[1]
        except RuntimeError:
            fits = False
        if not fits:
            yield Finding.at(
                inspection.location("guide", name),
                "error",
                f"the guide's values of {name!r} have shape {given} with {events[1]} event "
                f"dimension(s), and the model's prior has shape {own} with {events[0]}: use the "
                "same shape and the same .to_event(k) in both",
            )


def _listed(names: Collection[str]) -> str:
    """A list of names, of which the first ones stand for many."""
    shown = list(names)[:_SHOWN]
    more = len(names) - len(shown)
    return f"{shown} and {more} more" if more else f"{shown}"


_RUNS = 5


def sites_at_random(inspection: Inspection) -> Iterator[Finding]:
    """Sites that exist in some runs only."""
    first = {role: set(inspection.sites(role)) for role, _ in inspection.programs}
    always, ever = {r: set(s) for r, s in first.items()}, first
    pair = inspection.pair
    for seed in range(_RUNS):
        with seeded(seed):
            model, guide = paired_traces(pair.model, pair.guide, inspection.batch)
        for role, trace in (("model", model), ("guide", guide)):
            found = {name for name, _ in sample_sites(trace)}
            always[role] &= found
            ever[role] = ever[role] | found
    for role in ("model", "guide"):
        at_random = sorted(ever[role] - always[role])
        if at_random:
            yield Finding.at(
                next((p for n in at_random if (p := inspection.location(role, n))), None),
                "warning",
                f"sites {at_random} of the {role} exist in some runs only: the other program has "
                "to "
                "follow the same branch, and steps stay eager; draw the branch as a site, and mask "
                "what does not apply",
            )
