"""Does the objective make sense for this pair?"""

from collections.abc import Iterator

from pvae.checking.finding import Finding
from pvae.checking.inspection import Subject
from pvae.objectives import Objective, UnsuitableError

__all__ = ["unsuited_objective"]


def unsuited_objective(subject: Subject) -> Iterator[Finding]:
    """What the objective itself has against the pair."""
    objective = subject.objective
    if not isinstance(objective, Objective):
        return
    programs = subject.belongings.model, subject.belongings.guide
    try:
        objective.prepare(*programs, *subject.batch)
    except UnsuitableError as error:
        yield Finding("error", str(error))
