"""Do the guide's latent sites match the model's?"""

from collections.abc import Iterator

from pvae.checking.finding import Finding
from pvae.checking.inspection import Subject
from pvae.pair.traces import latent_sites, observed_sites

__all__ = ["unmatched_sites"]


def unmatched_sites(subject: Subject) -> Iterator[Finding]:
    """Latent sites that one of the programs lacks, and data that the guide observes."""
    latent, proposed = latent_sites(subject.model), latent_sites(subject.guide)
    if not any(site["is_observed"] for site in subject.sites("model").values()):
        yield Finding(
            "warning", "the model observes nothing, so that data do not count: give a site obs=x"
        )
    for name in observed_sites(subject.guide):
        yield Finding.at(
            subject.place("guide", name),
            "error",
            f"the guide observes {name!r}: q(z | x) is given the data as its arguments, and its "
            "observed sites count nowhere; take obs= out, or move the statement into the model",
        )
    missing = [
        name
        for name, site in latent.items()
        # A site that the objective sums out is the model's alone.
        if name not in proposed and not site["infer"].get("enumerate")
    ]
    for name in missing:
        yield Finding.at(
            subject.place("model", name),
            "error",
            f"guide has no site {name!r}; the model samples {list(latent)}, the guide "
            f"{list(proposed)}: "
            "add one to the guide, or observe it in the model (obs=x)",
        )
    for name, site in proposed.items():
        if name not in latent and not site["infer"].get("is_auxiliary"):
            observed = name in subject.model.nodes
            what = "observes it" if observed else "has no such site"
            yield Finding.at(
                subject.place("guide", name),
                "error",
                f"guide samples {name!r}, but the model {what}; its latent sites are "
                f"{list(latent)}: give it one of these names, or mark it with "
                "infer={'is_auxiliary': True}",
            )
