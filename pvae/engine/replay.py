"""Steps from recordings: when a recording is made, replayed and verified."""

import dataclasses
import random
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor, nn

from pvae.engine.cache_key import CacheKey, Key, describe_arguments
from pvae.engine.cuda_graph import graph_recording, on_cuda
from pvae.engine.inductor import compile_recording
from pvae.engine.recording import CaptureError, Recording, record
from pvae.engine.schedule import Schedule
from pvae.engine.step import Step, eager_step
from pvae.engine.verification import aliased, difference
from pvae.pair.discovery import Registrations
from pvae.pair.preserve import preserve_state

__all__ = ["Replay"]

_MAX_ENTRIES = 32  # one for each shape and mode in use is enough
_MAX_KEYS = 64  # if hardly any step is replayed, recording stops after this many keys
_OFTEN, _RARELY = 100, 1000  # steps between verifications, before and after this many steps


@dataclass
class _Entry:
    """The steps that share a cache key."""

    arguments: str
    params: list[Tensor]
    count: int
    recording: Recording | None = None
    tried: bool = False
    compiled: bool = False
    verified: bool = False
    last_verified: int = 0
    differed: bool = False


@dataclass
class Replay:
    """Executes steps from recordings, each under its cache key.

    The key holds arguments, modes, parameters, buffers, and the numbers, strings and container
    sizes that the programs refer to. Any other dependency of a step is detected by verification: a
    replay is compared with an eager step under the same random numbers.

    Args:
        loss_and_grads: the objective's `loss_and_grads` for the pair.
        programs: model and guide.
        networks: those of the pair; networks that are found later are appended.
        others: parameters that are trained although the programs do not register them.
        schedule: when steps are recorded and compiled.
        coarse: whether matrix products have less precision than float32.

    Attributes:
        notes: why steps were not replayed, or were recorded again, in sentences.
        verify_next: set it to verify the next replay.
        replayed: number of replayed steps.
        recorded: number of recordings.
        num_keys: number of different cache keys.
        since: the step numbers of the first replayed step and the first compiled step.
    """

    loss_and_grads: Callable[..., object]
    programs: Mapping[str, Callable[..., object]]
    networks: list[nn.Module]
    others: Sequence[Tensor]
    schedule: Schedule
    coarse: bool = False
    notes: list[str] = field(default_factory=list)
    verify_next: bool = False
    replayed: int = 0
    recorded: int = 0
    num_keys: int = 0
    since: dict[str, int] = field(default_factory=dict)
    _cache: "OrderedDict[Key, _Entry]" = field(default_factory=OrderedDict)
    _before: dict[str, int] = field(default_factory=dict)
    _given_up: bool = False

    def __post_init__(self) -> None:
        self._key = CacheKey(self.programs, self.networks)

    def step(self, args: tuple[object, ...], kwargs: Mapping[str, object], *, number: int) -> Step:
        """Losses and gradients of a step, replayed if possible.

        Args:
            args: positional arguments of the programs.
            kwargs: keyword arguments of the programs.
            number: number of the step; verification depends on nothing else.
        """
        arguments = describe_arguments(args, kwargs)
        if arguments is None:
            self._note(
                "steps are eager: the programs take arguments other than tensors, numbers and "
                "strings, which may change unnoticed"
            )
        if arguments is None or self._given_up:
            return self._eager(args, kwargs)
        key = self._key(arguments)
        entry = self._cache.get(key)
        if entry is None:
            before = self._before.pop(str(arguments), 0)
            if before < self.schedule.record:
                return self._first(arguments, args, kwargs, before + 1)
            with preserve_state(self.networks):  # a resumed training continues with replays
                self._first(arguments, args, kwargs, before)
            key = self._key(arguments)
            entry = self._cache.get(key)
            if entry is None:
                return self._eager(args, kwargs)
        self._cache.move_to_end(key)
        entry.count += 1
        if entry.count <= self.schedule.record:
            return self._eager(args, kwargs)
        return self._replay(entry, args, kwargs, number)

    def counts(self) -> dict[str, int]:
        """Number of steps by their arguments, for a resumed training."""
        counts = {entry.arguments: entry.count for entry in self._cache.values()}
        return {**self._before, **counts}

    def resume(self, counts: Mapping[str, int]) -> None:
        """Continue from what `counts` returned."""
        self._cache.clear()
        self._before = dict(counts)

    def _eager(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> Step:
        return eager_step(self.loss_and_grads, args, kwargs, others=self.others)

    # Looking up

    def _first(
        self, arguments: tuple[object, ...], args: tuple[object, ...],
        kwargs: Mapping[str, object], count: int,
    ) -> Step:  # fmt: skip
        """The first step with a key: Pyro's own, with its errors and warnings."""
        before, captured = _outside_torch(), self._key.captured()
        with Registrations(None) as registrations:
            done = self._eager(args, kwargs)
        if _outside_torch() != before:
            self._give_up(
                "steps are eager: the pair draws from Python's or NumPy's random numbers, which a "
                "replay cannot; draw with torch or Pyro"
            )
            return done
        self.num_keys += 1
        if self.num_keys > _MAX_KEYS and self.num_keys > self.replayed / 4:
            self._give_up(
                f"steps are eager: {self.num_keys} of {self.num_keys + self.replayed} steps had a "
                "cache key of their own, since arguments, modes or captured values keep changing"
            )
            return done
        own = self._key.captured.changed(captured, self._key.captured())
        if own:
            self._note(
                f"steps are eager: the programs update {', '.join(map(repr, own))} on each call, "
                "which a replay cannot"
            )
            return done
        known = {id(part) for whole in self.networks for part in whole.modules()}
        self.networks += [
            network for _, network in registrations.networks if id(network) not in known
        ]
        self._key = CacheKey(self.programs, self.networks)
        self._cache[self._key(arguments)] = _Entry(str(arguments), done.params, count)
        while len(self._cache) > _MAX_ENTRIES:
            self._cache.popitem(last=False)
        return done

    def _replay(
        self, entry: _Entry, args: tuple[object, ...], kwargs: Mapping[str, object], number: int
    ) -> Step:
        tensors = _tensors(args, kwargs)
        if not entry.tried:
            self._record(entry, args, kwargs)
        if entry.recording is not None and not entry.compiled:
            self._compile(entry, tensors)
        if entry.recording is not None and self._due(entry, number):
            entry.last_verified = number
            self._verify(entry, args, kwargs, tensors)
        if entry.recording is None:
            return self._eager(args, kwargs)
        self.replayed += 1
        self.since.setdefault(entry.recording.how, number)
        return entry.recording(tensors)

    # Recording

    def _record(
        self, entry: _Entry, args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> None:
        entry.tried, entry.compiled, entry.verified = True, False, False
        self.recorded += 1
        buffers = [buffer for network in self.networks for buffer in network.buffers()]
        try:
            entry.recording = record(self.loss_and_grads, entry.params, buffers, args, kwargs)
            self._make_cuda_graph(entry, _tensors(args, kwargs))
        except CaptureError as error:
            entry.recording = None
            self._note(f"steps are eager: they cannot be recorded; {error}")

    def _compile(self, entry: _Entry, tensors: Sequence[Tensor]) -> None:
        assert entry.recording is not None
        if not self.schedule.compiles(entry.recording, entry.count - 1):
            return
        entry.compiled, entry.verified = True, False
        try:
            with preserve_state(self.networks):
                entry.recording = compile_recording(entry.recording, tensors)
        except CaptureError as error:
            self._note(f"recorded steps are replayed without compilation; {error}")
            return
        self._make_cuda_graph(entry, tensors)

    def _make_cuda_graph(self, entry: _Entry, tensors: Sequence[Tensor]) -> None:
        """Turn the recording into a CUDA graph if it is on a CUDA device."""
        assert entry.recording is not None
        if not on_cuda((*tensors, *entry.recording.constants)):
            return
        try:
            with preserve_state(self.networks):
                entry.recording = graph_recording(entry.recording, tensors)
        except CaptureError as error:
            self._note(f"the kernels of a step are launched one by one; {error}")

    def _give_up(self, why: str) -> None:
        self._given_up = True
        self._cache.clear()
        self._note(why)

    # Verification

    def _due(self, entry: _Entry, number: int) -> bool:
        wanted, self.verify_next = self.verify_next, False
        every = _OFTEN if entry.differed or number < _RARELY else _RARELY
        return wanted or not entry.verified or number - entry.last_verified >= every

    def _verify(
        self, entry: _Entry, args: tuple[object, ...], kwargs: Mapping[str, object],
        tensors: Sequence[Tensor],
    ) -> None:  # fmt: skip
        """Compare a replay with an eager step; if they differ, record again or give up."""
        different = self._difference(entry, args, kwargs, tensors)
        if different is None:
            return
        for other in self._cache.values():  # the cause may affect them as well
            other.verified, other.differed = False, True
        self._record(entry, args, kwargs)
        if entry.recording is None:
            return
        self._compile(entry, tensors)
        again = self._difference(entry, args, kwargs, tensors)
        if again is None:
            self._note(
                f"{different} of a replay differed from Pyro's, so the step was recorded again"
            )
        else:
            entry.recording = None
            self._note(f"steps are eager: {again} of a replay differs from Pyro's")

    def _difference(
        self, entry: _Entry, args: tuple[object, ...], kwargs: Mapping[str, object],
        tensors: Sequence[Tensor],
    ) -> str | None:  # fmt: skip
        assert entry.recording is not None
        if not entry.verified and aliased(entry.recording, tensors, self.networks):
            entry.recording = dataclasses.replace(entry.recording, copies=True)
        entry.verified = True
        return difference(
            entry.recording, tensors, self.loss_and_grads, args, kwargs, self.networks,
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
