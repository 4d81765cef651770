"""Recordings of steps with one cache key, and what happened to them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from pvae.engine.recording import Recording

__all__ = ["Entry", "Unattended", "Variant", "changing_values"]


@dataclass
class Variant:
    """A recording, and what happened to it. Variants of an entry read different values.

    Attributes:
        recording: the recording.
        compile_at: steps of its entry before it is compiled.
        graph: all kernels of it in one launch, or None.
        compiled: whether its compilation was tried.
        verified: whether it agrees with Pyro's step, as far as is known.
        last_verified: the step in which it was compared.
        replays: its replays since then.
        kinks: comparisons in a row in which a gradient alone differed.
    """

    recording: Recording
    compile_at: float
    graph: Recording | None = None
    compiled: bool = False
    verified: bool = False
    last_verified: int = 0
    replays: int = 0
    kinks: int = 0

    @property
    def executed(self) -> Recording:
        """What a replay executes."""
        return self.graph or self.recording


@dataclass
class Entry:
    """The steps with one cache key.

    Attributes:
        arguments: their description, under which they are counted in a checkpoint.
        params: the parameters that they use.
        count: how many there were.
        variants: recordings; the last one that fitted comes first.
        closed: whether nothing more is recorded.
        missed: steps that no variant fitted.
        differed: whether a replay of any step of the pair has differed from Pyro's.
    """

    arguments: str
    params: list[Tensor]
    count: int
    variants: list[Variant] = field(default_factory=list)
    closed: bool = False
    missed: int = 0
    differed: bool = False


@dataclass(frozen=True)
class Unattended:
    """Steps that replay one recording, with nothing to decide between them.

    Attributes:
        recording: what they replay, not as a CUDA graph.
        steps: the largest number of them.
        entry: counts them.
        variant: counts them, too.
    """

    recording: Recording
    steps: int
    entry: Entry
    variant: Variant


def changing_values(variants: Sequence[Variant]) -> str:
    """What differs between variants, in words."""
    values: dict[str, set[str]] = {}
    for read in [read for variant in variants for read in variant.recording.reads]:
        values.setdefault(read.where, set()).add(repr(read.value))
    where = [line for line, several in values.items() if len(several) > 2]
    if where:
        return f"the value of a tensor that is read at {' and '.join(where)} is seldom the same"
    masks = variants[0].recording.masks
    if masks:
        return (
            f"a boolean mask chooses ever other numbers of elements at {' and '.join(masks)}: "
            "torch.where has one shape for all values"
        )
    return "shapes depend on values of tensors"
