"""Are the sites the same in every run?"""

from collections.abc import Iterator

from pvae.checking.finding import Finding
from pvae.checking.inspection import Subject
from pvae.pair.preserve import seeded
from pvae.pair.traces import paired_traces, sample_sites

__all__ = ["sites_at_random"]

_RUNS = 5


def sites_at_random(subject: Subject) -> Iterator[Finding]:
    """Sites that some runs have and others have not."""
    first = {role: set(subject.sites(role)) for role, _ in subject.programs}
    always, ever = {r: set(s) for r, s in first.items()}, first
    belongings = subject.belongings
    for seed in range(_RUNS):
        with seeded(seed):
            model, guide = paired_traces(belongings.model, belongings.guide, subject.batch)
        for role, trace in (("model", model), ("guide", guide)):
            found = {name for name, _ in sample_sites(trace)}
            always[role] &= found
            ever[role] = ever[role] | found
    for role in ("model", "guide"):
        at_random = sorted(ever[role] - always[role])
        if at_random:
            yield Finding.at(
                next((p for n in at_random if (p := subject.place(role, n))), None),
                "warning",
                f"sites {at_random} of the {role} are there in some runs and not in others: the "
                "other program has to follow the same branch, and steps stay eager; draw the "
                "branch as a site of its own, and mask what does not apply",
            )
