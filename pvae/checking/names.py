"""Is each parameter registered once under its name?"""

from collections.abc import Iterator

from pvae.checking.finding import Finding
from pvae.checking.inspection import Subject
from pvae.pair.locations import Place

__all__ = ["names_used_twice"]


def names_used_twice(subject: Subject) -> Iterator[Finding]:
    """Parameters or networks that share a name, so that the later one's values count nowhere."""
    made: dict[str, list[Place]] = {}
    for places in subject.places.values():
        for name, found in places.params.items():
            made.setdefault(name, []).extend(p for p in found if p not in made[name])
    for name, statements in made.items():
        if "$$$" not in name and len(statements) > 1:
            yield Finding.at(
                statements[-1],
                "warning",
                f"pyro.param({name!r}) is given a first value in {len(statements)} places: there "
                "is one parameter of that name, with the first value that was met; give each its "
                "own name",
            )
    for name, first, second in subject.belongings.namesakes:
        registered = [s for n, s in made.items() if n.startswith(f"{name}$$$") and s]
        yield Finding.at(
            registered[0][-1] if registered else None,
            "warning",
            f"pyro.module({name!r}) is given two networks, a {type(first).__name__} and a "
            f"{type(second).__name__}: Pyro registers the first, and leaves the second untrained "
            "where their parameters have one name; give each its own name",
        )
