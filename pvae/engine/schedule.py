"""When an engine records and compiles steps."""

import math
from dataclasses import dataclass

from pvae.engine.recording import Recording

__all__ = ["SCHEDULES", "Schedule"]


@dataclass(frozen=True)
class Schedule:
    """Steps with one cache key, from the start of training, before it is recorded and compiled.

    Attributes:
        record: steps before the recording.
        compile: steps before the compilation; None for no compilation.
        compile_each: additional steps before the compilation per operation of the recording.
    """

    record: int
    compile: int | None
    compile_each: int = 0

    def until_compilation(self, recording: Recording, steps: int) -> float:
        """Steps after these before the compilation of a recording; 0 or less if it is due."""
        if self.compile is None:
            return math.inf
        return self.compile + self.compile_each * len(recording.graph.graph.nodes) - steps


SCHEDULES = {
    "recorded": Schedule(record=1, compile=None),
    "captured": Schedule(record=1, compile=1),
    # A recording costs as much as some fifty steps alone on a machine, and as few of them beside
    # other work. A compilation costs several thousand replays, and the next start finds it on disk.
    "auto": Schedule(record=20, compile=5000, compile_each=5),
}
