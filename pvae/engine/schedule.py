"""When an engine records steps, and when it compiles them."""

from dataclasses import dataclass

from pvae.engine.recording import Recording

__all__ = ["TIERS", "Tiers"]


@dataclass(frozen=True)
class Tiers:
    """After how many steps of a kind, counted from the start of the training, what is done.

    Attributes:
        record: the step is recorded.
        compile: the recording is compiled, or None for never.
        compile_each: further steps before compilation for each operation of the recording.
    """

    record: int
    compile: int | None
    compile_each: int = 0

    def compiles(self, recording: Recording, steps: int) -> bool:
        """Whether a recording is to be compiled after so many steps of its kind."""
        if self.compile is None:
            return False
        return steps >= self.compile + self.compile_each * len(recording.graph.graph.nodes)


TIERS = {
    "recorded": Tiers(record=1, compile=None),
    "captured": Tiers(record=1, compile=1),
    # A recording has saved what it cost after some hundred steps, and by the time that a kind of
    # step is compiled, replays without compilation have saved what that costs.
    "auto": Tiers(record=100, compile=5000, compile_each=5),
}
