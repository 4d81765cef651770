"""When an engine records and compiles steps."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch.fx import Graph

from pvae.engine.costs import steps_for_compilation

__all__ = ["SCHEDULES", "Schedule"]


@dataclass(frozen=True)
class Schedule:
    """Steps with one cache key, from the start of training, before it is recorded and compiled.

    Attributes:
        record: steps before the recording.
        compile: steps before the compilation, or a function of the recorded operations to them;
            infinity for no compilation.
    """

    record: int
    compile: float | Callable[[Graph], float]

    def before_compilation(self, graph: Graph) -> float:
        """Steps before the compilation of these operations."""
        return self.compile(graph) if callable(self.compile) else self.compile


SCHEDULES = {
    "recorded": Schedule(record=1, compile=math.inf),
    "captured": Schedule(record=1, compile=1),
    # A recording costs as much as some fifty steps alone on a machine, and as few of them beside
    # other work.
    "auto": Schedule(record=20, compile=steps_for_compilation),
}
