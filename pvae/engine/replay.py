"""Steps from recordings: which recording serves, when one is made, and when it is compared."""

import dataclasses
import random
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor, nn

from pvae.engine.cuda_graph import graphed, on_cuda
from pvae.engine.inductor import compiled
from pvae.engine.recording import CaptureError, Recording, record
from pvae.engine.schedule import Tiers
from pvae.engine.signatures import Key, Signature
from pvae.engine.step import Step, eager_step, undone
from pvae.engine.verification import aliased, difference
from pvae.pair.watch import Watch

__all__ = ["Replay"]

_KEPT = 32  # kinds of step; one for each shape and mode in use is enough
_CHANGES = 64  # kinds, if hardly any is replayed, after which the search is given up
_EVERY = 100  # steps between comparisons, until this has gone well
_RARELY = 1000


@dataclass
class _Kind:
    """Steps that one recording serves."""

    signature: str
    params: list[Tensor]
    count: int
    recording: Recording | None = None
    tried: bool = False
    compiled: bool = False
    compared: bool = False
    last_compared: int = 0
    differed: bool = False


@dataclass
class Replay:
    """Carries out steps from recordings, each keyed on all that can be seen to decide its graph.

    Seen are arguments, modes, parameters, buffers, and the numbers, texts and sizes of containers
    that the programs hold. What cannot be seen is found by comparing a replay with an eager step
    under the same random numbers.

    Args:
        loss_and_grads: the objective's, of the pair.
        programs: model and guide.
        networks: the networks of the pair, those that are found later included.
        others: parameters that are trained although the programs do not register them.
        tiers: when steps are recorded and compiled.
        coarse: whether products are rounded to less than float32.

    Attributes:
        notes: why steps were not replayed, or had to be recorded again, in sentences.
        compare_next: set it to compare the next replay with an eager step.
        replayed: steps so far that came from a recording.
        recorded: recordings so far.
        kinds: kinds of step so far.
        since: the numbers of the first step that was replayed, and that was compiled.
    """

    loss_and_grads: Callable[..., object]
    programs: Mapping[str, Callable[..., object]]
    networks: list[nn.Module]
    others: Sequence[Tensor]
    tiers: Tiers
    coarse: bool = False
    notes: list[str] = field(default_factory=list)
    compare_next: bool = False
    replayed: int = 0
    recorded: int = 0
    kinds: int = 0
    since: dict[str, int] = field(default_factory=dict)
    _kinds: "OrderedDict[Key, _Kind]" = field(default_factory=OrderedDict)
    _before: dict[str, int] = field(default_factory=dict)
    _given_up: bool = False

    def __post_init__(self) -> None:
        self._signature = Signature(self.programs, self.networks)

    def step(self, args: tuple[object, ...], kwargs: Mapping[str, object], *, number: int) -> Step:
        """Losses and gradients of a step, from a recording where there is one.

        Args:
            args: of the programs.
            kwargs: likewise.
            number: of the step; comparisons depend on nothing else.
        """
        arguments = Signature.of_arguments(args, kwargs)
        if arguments is None:
            self._note(
                "arguments other than tensors, numbers and texts are not known to stay the same: "
                "steps are eager"
            )
        if arguments is None or self._given_up:
            return self._eager(args, kwargs)
        key = self._signature(arguments)
        kind = self._kinds.get(key)
        if kind is None:
            before = self._before.pop(str(arguments), 0)
            if before < self.tiers.record:
                return self._first(arguments, args, kwargs, before + 1)
            with undone(self.networks):  # a training that is resumed goes on with replays
                self._first(arguments, args, kwargs, before)
            key = self._signature(arguments)
            kind = self._kinds.get(key)
            if kind is None:
                return self._eager(args, kwargs)
        self._kinds.move_to_end(key)
        kind.count += 1
        if kind.count <= self.tiers.record:
            return self._eager(args, kwargs)
        return self._replay(kind, args, kwargs, number)

    def counts(self) -> dict[str, int]:
        """Steps so far by kind: what a training that is resumed has to know."""
        return {**self._before, **{kind.signature: kind.count for kind in self._kinds.values()}}

    def resume(self, counts: Mapping[str, int]) -> None:
        """Go on from what `counts` returned."""
        self._kinds.clear()
        self._before = dict(counts)

    def _eager(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> Step:
        return eager_step(self.loss_and_grads, args, kwargs, others=self.others)

    # Which recording

    def _first(
        self, arguments: tuple[object, ...], args: tuple[object, ...],
        kwargs: Mapping[str, object], count: int,
    ) -> Step:  # fmt: skip
        """A step of Pyro's, with its errors and warnings on wrong pairs; later ones are replays."""
        before, held = _outside_torch(), self._signature.held()
        with Watch(None) as watch:
            done = self._eager(args, kwargs)
        if _outside_torch() != before:
            self._give_up(
                "steps are eager, since the pair draws from Python's or NumPy's random numbers, "
                "which a replay would not do: draw with torch or Pyro"
            )
            return done
        self.kinds += 1
        if self.kinds > _CHANGES and self.kinds > self.replayed / 4:
            self._give_up(
                f"steps are eager, since {self.kinds} of {self.kinds + self.replayed} were the "
                "first of their kind: arguments, modes or what the programs hold keep changing"
            )
            return done
        own = self._signature.held.changed(held, self._signature.held())
        if own:
            self._note(
                f"a step that changes {', '.join(map(repr, own))} itself is eager, as no replay "
                "would do that"
            )
            return done
        known = {id(part) for whole in self.networks for part in whole.modules()}
        self.networks += [network for _, network in watch.networks if id(network) not in known]
        self._signature = Signature(self.programs, self.networks)
        self._kinds[self._signature(arguments)] = _Kind(str(arguments), done.params, count)
        while len(self._kinds) > _KEPT:
            self._kinds.popitem(last=False)
        return done

    def _replay(
        self, kind: _Kind, args: tuple[object, ...], kwargs: Mapping[str, object], number: int
    ) -> Step:
        tensors = _tensors(args, kwargs)
        if not kind.tried:
            self._record(kind, args, kwargs)
        if kind.recording is not None and not kind.compiled:
            self._compile(kind, tensors)
        if kind.recording is not None and self._due(kind, number):
            kind.last_compared = number
            self._compare(kind, args, kwargs, tensors)
        if kind.recording is None:
            return self._eager(args, kwargs)
        self.replayed += 1
        self.since.setdefault(kind.recording.how, number)
        return kind.recording(tensors)

    # Making one

    def _record(self, kind: _Kind, args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
        kind.tried, kind.compiled, kind.compared = True, False, False
        self.recorded += 1
        buffers = [buffer for network in self.networks for buffer in network.buffers()]
        try:
            kind.recording = record(self.loss_and_grads, kind.params, buffers, args, kwargs)
            self._launch_at_once(kind, _tensors(args, kwargs))
        except CaptureError as error:
            kind.recording = None
            self._note(f"steps are eager, since they cannot be recorded: {error}")

    def _compile(self, kind: _Kind, tensors: Sequence[Tensor]) -> None:
        assert kind.recording is not None
        if not self.tiers.compiles(kind.recording, kind.count - 1):
            return
        kind.compiled, kind.compared = True, False
        try:
            with undone(self.networks):
                kind.recording = compiled(kind.recording, tensors)
        except CaptureError as error:
            self._note(f"recorded steps are replayed without compilation: {error}")
            return
        self._launch_at_once(kind, tensors)

    def _launch_at_once(self, kind: _Kind, tensors: Sequence[Tensor]) -> None:
        """Make a CUDA graph of the recording, where it is on such a device."""
        assert kind.recording is not None
        if not on_cuda((*tensors, *kind.recording.constants)):
            return
        try:
            with undone(self.networks):
                kind.recording = graphed(kind.recording, tensors)
        except CaptureError as error:
            self._note(f"the operations of a step are launched one by one: {error}")

    def _give_up(self, why: str) -> None:
        self._given_up = True
        self._kinds.clear()
        self._note(why)

    # Trusting it

    def _due(self, kind: _Kind, number: int) -> bool:
        wanted, self.compare_next = self.compare_next, False
        every = _EVERY if kind.differed or number < _RARELY else _RARELY
        return wanted or not kind.compared or number - kind.last_compared >= every

    def _compare(
        self, kind: _Kind, args: tuple[object, ...], kwargs: Mapping[str, object],
        tensors: Sequence[Tensor],
    ) -> None:  # fmt: skip
        """Compare a replay with an eager step; record again, or give the recording up."""
        different = self._difference(kind, args, kwargs, tensors)
        if different is None:
            return
        for other in self._kinds.values():  # what changed may be theirs too
            other.compared, other.differed = False, True
        self._record(kind, args, kwargs)
        if kind.recording is None:
            return
        self._compile(kind, tensors)
        again = self._difference(kind, args, kwargs, tensors)
        if again is None:
            self._note(f"{different} was not what Pyro gives any more: the step was recorded again")
        else:
            kind.recording = None
            self._note(f"steps are eager, since {again} of a replay is not what Pyro gives")

    def _difference(
        self, kind: _Kind, args: tuple[object, ...], kwargs: Mapping[str, object],
        tensors: Sequence[Tensor],
    ) -> str | None:  # fmt: skip
        assert kind.recording is not None
        if not kind.compared and aliased(kind.recording, tensors, self.networks):
            kind.recording = dataclasses.replace(kind.recording, copies=True)
        kind.compared = True
        return difference(
            kind.recording, tensors, self.loss_and_grads, args, kwargs, self.networks,
            coarse=self.coarse,
        )  # fmt: skip

    def _note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)


def _tensors(args: tuple[object, ...], kwargs: Mapping[str, object]) -> list[Tensor]:
    return [leaf for leaf in (*args, *kwargs.values()) if isinstance(leaf, Tensor)]


def _outside_torch() -> tuple[object, ...]:
    """The states of Python's and NumPy's generators."""
    _, keys, position, *_ = np.random.get_state()
    return random.getstate(), np.asarray(keys).tobytes(), position
