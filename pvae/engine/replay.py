"""Steps from recordings: when a recording is made, replayed and verified: one state machine."""

import dataclasses
import random
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyro
import torch
from torch import Tensor, nn

from pvae.engine.cache_key import CacheKey, Key, describe_arguments, tensor_arguments
from pvae.engine.cuda_graph import graph_recording
from pvae.engine.entries import Entry, Unattended, Variant, changing_values
from pvae.engine.guards import GuardError
from pvae.engine.inductor import compile_recording
from pvae.engine.reads import CaptureError
from pvae.engine.recording import Recording, on_cuda, record, summary
from pvae.engine.schedule import Schedule
from pvae.engine.step import Step, eager_step
from pvae.engine.verification import aliased, difference
from pvae.pair.preserve import preserve_state
from pvae.pair.registration import Registrations

__all__ = ["Replay"]

_MAX_ENTRIES = 32  # one for each shape and mode in use is enough
_MAX_KEYS = 64  # if hardly any step is replayed, recording stops after this many keys
_MAX_VARIANTS = 8  # recordings of one key, which differ in the values that they read
_MAX_MISSES = 32  # steps whose values were not those of a recording
_OFTEN, _RARELY = 100, 1000  # steps between verifications, before and after this many steps
_LONGEST = 10  # times as many, after which a variant is verified by itself
_KINKS = 2  # verifications in a row in which a gradient alone may differ
_HIDDEN = 10  # steps between them if a key cannot hold all values that the programs refer to


@dataclass
class Replay:
    """Executes steps from recordings, each under its cache key.

    The key holds arguments, modes, parameters, buffers, and the values that the programs refer to
    (`CapturedValues`). Values of tensors that a step reads are guards: a recording is replayed only
    where the same values are read. Any other dependency of a step is detected by verification: a
    replay is compared with an eager step under the same random numbers. A replay that fails is
    reversed, and the step is eager.

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
    _cache: "OrderedDict[Key, Entry]" = field(default_factory=OrderedDict)
    _before: dict[str, int] = field(default_factory=dict)
    _given_up: bool = False
    _last_verified: int = 1  # the step in which any variant was, as its time had come

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
                "steps are eager: the programs take arguments other than tensors, numbers, strings "
                "and containers of these, which may change unnoticed"
            )
        if arguments is None or self._given_up or self._is_surrounded():
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

    def unattended(self, arguments: tuple[object, ...], number: int) -> Unattended | None:
        """The next steps that are replays, if nothing changes and nothing is read between them.

        Args:
            arguments: of each of them, from `describe_arguments`.
            number: of the first one.
        """
        if self._given_up or self.verify_next or self._is_surrounded():
            return None
        entry = self._cache.get(self._key(arguments))
        if entry is None or not entry.variants:
            return None
        variant = entry.variants[0]
        if variant.graph is None or variant.recording.guards is not None or not variant.verified:
            return None
        steps: float = self._until_due(entry, variant, number)
        if not variant.compiled:
            steps = min(steps, variant.compile_at - entry.count)
        return Unattended(variant.recording, int(steps), entry, variant) if steps > 0 else None

    def count(self, taken: Unattended, steps: int) -> None:
        """Count unattended steps that were taken."""
        taken.entry.count += steps
        taken.variant.replays += steps
        self.replayed += steps

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
        before, captured = _outside_torch(), self._key.captured.snapshot()
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
        own = self._key.captured.update(captured)
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
        self._key = CacheKey(self.programs, self.networks, self._key.captured.caches)
        self._cache[self._key(arguments)] = Entry(str(arguments), done.params, count)
        while len(self._cache) > _MAX_ENTRIES:
            self._cache.popitem(last=False)
        return done

    def _is_surrounded(self) -> bool:
        """Whether something around the step changes what it computes."""
        what = None
        if pyro.poutine.runtime._PYRO_STACK:
            what = "effect handlers surround them: put these around the model and the guide"
        elif torch._C._is_any_autocast_enabled():
            what = "torch.autocast surrounds them: pvae replays steps with precision='bfloat16'"
        elif not torch.is_grad_enabled():
            what = "torch.no_grad surrounds them"
        if what is not None:
            self._note(f"steps are eager while {what}")
        return what is not None

    def _replay(
        self, entry: Entry, args: tuple[object, ...], kwargs: Mapping[str, object], number: int
    ) -> Step:
        tensors = tensor_arguments(args, kwargs)
        for variant in list(entry.variants):
            done = self._try(entry, variant, args, kwargs, tensors, number)
            if done is not None:
                return done
        new = None if entry.closed else self._record(entry, args, kwargs)
        done = None if new is None else self._try(entry, new, args, kwargs, tensors, number)
        if done is not None:
            return done
        entry.missed += 1
        if entry.missed > _MAX_MISSES and entry.missed > entry.count / 2 and entry.variants:
            self._note(f"steps are eager: {changing_values(entry.variants)}")
            entry.variants.clear()
        return self._eager(args, kwargs)

    def _try(
        self, entry: Entry, variant: Variant, args: tuple[object, ...],
        kwargs: Mapping[str, object], tensors: Sequence[Tensor], number: int,
    ) -> Step | None:  # fmt: skip
        """Replay a variant if it fits; None, with the state as before, if it does not."""
        guards = variant.recording.guards
        if guards is not None and not guards.hold((*tensors, *variant.recording.constants)):
            return None
        if not variant.compiled:
            self._compile(entry, variant, tensors)
        if self._due(entry, variant, number) and not self._verify(
            entry, variant, args, kwargs, tensors, number
        ):
            return None
        recording = variant.executed
        undo = _undo(recording, tensors)
        try:
            done = recording(tensors)
        except GuardError:
            undo()
            return None
        except Exception as error:  # noqa: BLE001 (a replay never raises)
            undo()
            entry.variants.remove(variant)
            entry.closed = True
            self._note(f"steps are eager: a replay failed with {summary(error)}")
            return None
        if entry.variants[0] is not variant:
            entry.variants.remove(variant)
            entry.variants.insert(0, variant)
        variant.replays += 1
        self.replayed += 1
        self.since.setdefault(recording.how, number)
        return done

    # Recording

    def _record(
        self, entry: Entry, args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> Variant | None:
        """Record the step as another variant; None if it cannot be recorded."""
        self.recorded += 1
        buffers = [buffer for network in self.networks for buffer in network.buffers()]
        try:
            recording = record(
                self.loss_and_grads, entry.params, buffers, args, kwargs, guarded=True
            )
        except CaptureError as error:
            entry.closed = True
            self._note(f"steps are eager: they cannot be recorded; {error}")
            return None
        compile_at = self.schedule.before_compilation(recording.graph.graph)
        variant = Variant(recording, compile_at)
        self._make_cuda_graph(variant, tensor_arguments(args, kwargs))
        entry.variants.insert(0, variant)
        guarded = recording.guards is not None or recording.inside
        entry.closed = not guarded or len(entry.variants) == _MAX_VARIANTS
        return variant

    def _compile(self, entry: Entry, variant: Variant, tensors: Sequence[Tensor]) -> None:
        if entry.count <= variant.compile_at:
            return
        variant.compiled, variant.verified = True, False
        try:
            with preserve_state(self.networks):
                variant.recording = compile_recording(variant.recording, tensors)
        except CaptureError as error:
            self._note(f"recorded steps are replayed without compilation; {error}")
            return
        self._make_cuda_graph(variant, tensors)

    def _make_cuda_graph(self, variant: Variant, tensors: Sequence[Tensor]) -> None:
        """Turn the recording into a CUDA graph if it is on a CUDA device."""
        if not on_cuda((*tensors, *variant.recording.constants)):
            return
        variant.graph = None
        try:
            with preserve_state(self.networks):
                variant.graph = graph_recording(variant.recording, tensors)
        except CaptureError as error:
            self._note(f"the kernels of a step are launched one by one; {error}")

    def _give_up(self, why: str) -> None:
        self._given_up = True
        self._cache.clear()
        self._note(why)

    # Verification

    def _due(self, entry: Entry, variant: Variant, number: int) -> bool:
        wanted, self.verify_next = self.verify_next, False
        return wanted or not variant.verified or self._until_due(entry, variant, number) <= 0

    def _interval(self, entry: Entry, number: int) -> int:
        if not self._key.captured.complete:
            return _HIDDEN
        return _OFTEN if entry.differed or number < _RARELY else _RARELY

    def _until_due(self, entry: Entry, variant: Variant, number: int) -> int:
        """Steps before the next verification."""
        every = self._interval(entry, number)
        own = min(every - variant.replays, variant.last_verified + _LONGEST * every - number)
        return min(own, self._last_verified + every - number)

    def _verify(
        self, entry: Entry, variant: Variant, args: tuple[object, ...],
        kwargs: Mapping[str, object], tensors: Sequence[Tensor], number: int,
    ) -> bool:  # fmt: skip
        """Compare a replay with an eager step; if they differ, record again or give up.

        Returns:
            Whether the variant may be replayed.
        """
        before = variant.verified
        try:
            different = self._difference(variant, args, kwargs, tensors)
        except GuardError:  # this step is another variant's
            variant.verified = before
            return False
        variant.last_verified, variant.replays = number, 0
        if number - self._last_verified >= self._interval(entry, number):
            self._last_verified = number  # others are verified besides
        if different is None:
            variant.kinks = 0
            return True
        for other in self._cache.values():  # the cause may affect them as well
            other.differed = True
            for one in other.variants:
                one.verified = False
        entry.variants.remove(variant)
        new = self._record(entry, args, kwargs)
        if new is None:
            return False
        variant.recording, variant.graph, variant.compiled = new.recording, new.graph, False
        variant.compile_at = new.compile_at
        entry.variants[0] = variant
        self._compile(entry, variant, tensors)
        again = self._difference(variant, args, kwargs, tensors)
        if again is not None and again.startswith("the gradient") and variant.kinks < _KINKS:
            # The loss is the same: the gradient may jump here, as at the corner of a ReLU.
            variant.kinks, variant.verified = variant.kinks + 1, False
            self._note(f"{again} of a replay differed from Pyro's in a step that was Pyro's own")
            return False
        if again is not None:
            entry.variants.remove(variant)
            entry.closed = True
            self._note(f"steps are eager: {again} of a replay differs from Pyro's")
            return False
        self._note(f"{different} of a replay differed from Pyro's, so the step was recorded again")
        return True

    def _difference(
        self, variant: Variant, args: tuple[object, ...], kwargs: Mapping[str, object],
        tensors: Sequence[Tensor],
    ) -> str | None:  # fmt: skip
        found = difference(
            variant.executed, tensors, self.loss_and_grads, args, kwargs, self.networks,
            coarse=self.coarse,
        )  # fmt: skip
        new = found is None and not variant.verified
        if new and aliased(variant.executed, tensors, self.networks):
            variant.recording = dataclasses.replace(variant.recording, copies=True)
            if variant.graph is not None:
                variant.graph = dataclasses.replace(variant.graph, copies=True)
        variant.verified = True
        return found

    def _note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)


def _undo(recording: Recording, tensors: Sequence[Tensor]) -> Callable[[], None]:
    """A function that restores what a replay changes before it fails."""
    if recording.is_cuda_graph:  # which cannot fail half-way
        return lambda: None
    cpu = torch.get_rng_state()
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
    inputs = [(*tensors, *recording.constants)[i] for i in recording.written]
    kept = [tensor.clone() for tensor in inputs] if recording.inside else []

    def undo() -> None:
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state(cuda)
        with torch.no_grad():
            for tensor, value in zip(inputs, kept, strict=False):
                tensor.copy_(value)

    return undo


def _outside_torch() -> tuple[object, ...]:
    """The states of Python's and NumPy's generators."""
    _, keys, position, *_ = np.random.get_state()
    return random.getstate(), np.asarray(keys).tobytes(), position
