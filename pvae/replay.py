"""Gradients from recorded steps: when a recording serves, and when it is compared."""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pyro
import torch
from torch import Tensor, nn

from pvae.capture import CaptureError, Recording, compiled, record
from pvae.steps import Step, eager_step, undone

__all__ = ["Replay"]

_KEPT = 16  # recordings; one for each shape and mode in use is enough
_EVERY = 100  # steps between comparisons, until this has gone well
_RARELY = 1000
_LOSS, _GRADIENT, _NOISE = 1e-4, 1e-3, 1e-5  # differences that rounding can make, relative

Arguments = tuple[tuple[object, ...], Mapping[str, object]]


@dataclass
class _Entry:
    """A recording and how far it is trusted."""

    params: list[Tensor]
    recording: Recording | None
    tried: bool = False
    compiled: bool = False
    compared: bool = False
    last_compared: int = 0
    differed: bool = False


@dataclass
class Replay:
    """Carries out steps from recordings, each keyed on all that can be seen to decide its graph.

    What cannot be seen, such as a number that the model keeps as an attribute, is found by
    comparing a replay with an eager step under the same random numbers.

    Args:
        loss_and_grads: the objective's, of the pair.
        networks: the networks of the pair, those that are found later included.

    Attributes:
        notes: why steps were not replayed, or had to be recorded again, in sentences.
        compare_next: set it to compare the next replay with an eager step.
        unseen: whether the last step was the first of its kind.
        replayed: steps so far that came from a recording.
        recorded: kinds of step so far.
    """

    loss_and_grads: Callable[..., object]
    networks: list[nn.Module]
    notes: list[str] = field(default_factory=list)
    compare_next: bool = False
    unseen: bool = False
    replayed: int = 0
    recorded: int = 0
    _entries: "OrderedDict[object, _Entry]" = field(default_factory=OrderedDict)
    _given_up: bool = False
    _parts: list[nn.Module] = field(default_factory=list)
    _parameters: list[Tensor] = field(default_factory=list)

    def step(
        self, args: tuple[object, ...], kwargs: Mapping[str, object], *, weight: float,
        number: int, compile: bool,
    ) -> Step | None:  # fmt: skip
        """Losses and gradients of a step, or None where it has to be eager.

        Args:
            args: of the programs.
            kwargs: likewise.
            weight: a factor of the gradients.
            number: of the step, from 0; comparisons depend on nothing else.
            compile: whether the recording is to be compiled.
        """
        self.unseen = False
        key = None if self._given_up else self._key(args, kwargs, weight)
        if key is None:
            return None
        entry = self._entries.get(key)
        if entry is None:
            self.unseen = True  # Pyro's own step comes first, and then `saw`
            return None
        if not entry.tried:
            self._record(entry, args, kwargs, weight)
        tensors = _tensors(args, kwargs)
        if entry.recording is not None and compile and not entry.compiled:
            self._compile(entry, tensors)
        if entry.recording is not None and self._due(entry, number):
            entry.last_compared = number
            self._compare(entry, (args, kwargs), tensors, weight)
        if entry.recording is None:
            return None
        losses, gradients = entry.recording(tensors)
        for parameter, gradient in zip(entry.params, gradients, strict=True):
            parameter.grad = gradient
        self.replayed += 1
        return Step(tuple(losses), entry.recording.several, entry.params)

    # Which recording

    def _key(
        self, args: tuple[object, ...], kwargs: Mapping[str, object], weight: float
    ) -> object | None:
        described = [_described(leaf) for leaf in (*args, *kwargs.values())]
        if None in described:
            self._note(
                "arguments other than tensors, numbers and texts are not known to stay the same: "
                "steps are eager"
            )
            return None
        store = pyro.get_param_store()._params
        # Lists, as comprehensions are faster than generators: this is done in every step.
        return (
            weight,
            tuple(described),
            tuple(kwargs),
            tuple([part.training for part in self._parts]),
            tuple([(id(p), p.data_ptr()) for p in store.values()]),
            tuple([p.requires_grad for p in self._parameters]),
            tuple([id(b) for part in self._parts for b in part._buffers.values()]),
        )

    def _look(self) -> None:
        """Walk through the networks once, for all keys to come."""
        self._parts = [part for network in self.networks for part in network.modules()]
        self._parameters = [p for network in self.networks for p in network.parameters()]

    def saw(
        self,
        args: tuple[object, ...],
        kwargs: Mapping[str, object],
        weight: float,
        params: list[Tensor],
        networks: Sequence[nn.Module],
    ) -> None:
        """Take note of a step that Pyro carried out: the next one of its kind is recorded.

        Args:
            args: of the programs.
            kwargs: likewise.
            weight: a factor of the gradients.
            params: the parameters that the step met.
            networks: the networks that it passed to `pyro.module`.
        """
        known = {id(part) for whole in self.networks for part in whole.modules()}
        self.networks.extend(network for network in networks if id(network) not in known)
        self._look()
        key = self._key(args, kwargs, weight)
        if key is None or key in self._entries:
            return
        self._entries[key] = _Entry(params, None)
        while len(self._entries) > _KEPT:
            self._entries.popitem(last=False)
        self.recorded += 1
        if self.recorded > _KEPT and self.recorded > (self.replayed + 1) / 4:
            self._given_up = True
            self._note(
                f"something in the pair's signature changes all the time ({self.recorded} "
                f"recordings for {self.replayed} replays): steps are eager"
            )

    # Making one

    def _record(
        self, entry: _Entry, args: tuple[object, ...], kwargs: Mapping[str, object], weight: float
    ) -> None:
        entry.tried = True
        entry.compiled = entry.compared = False
        try:
            entry.recording = record(
                self.loss_and_grads, entry.params, self._buffers(), args, kwargs, weight
            )
        except CaptureError as error:
            entry.recording = None
            self._note(f"steps are eager, since they cannot be recorded: {error}")

    def _compile(self, entry: _Entry, tensors: Sequence[Tensor]) -> None:
        assert entry.recording is not None
        entry.compiled = True
        entry.compared = False
        try:
            with undone(self.networks):
                entry.recording = compiled(entry.recording, tensors)
        except CaptureError as error:
            self._note(f"the recorded step is replayed without compilation: {error}")

    # Trusting it

    def _due(self, entry: _Entry, number: int) -> bool:
        wanted, self.compare_next = self.compare_next, False
        every = _EVERY if entry.differed or number < _RARELY else _RARELY
        return wanted or not entry.compared or number - entry.last_compared >= every

    def _compare(
        self, entry: _Entry, arguments: Arguments, tensors: Sequence[Tensor], weight: float
    ) -> None:
        """Compare a replay with an eager step; record again, or give the recording up."""
        entry.compared = True
        different = self._difference(entry, arguments, tensors, weight)
        if different is None:
            return
        for other in self._entries.values():  # what changed may be theirs too
            other.compared, other.differed = False, True
        was_compiled = entry.compiled
        self._record(entry, *arguments, weight)
        if entry.recording is None:
            return
        if was_compiled:
            self._compile(entry, tensors)
        entry.compared = True
        again = self._difference(entry, arguments, tensors, weight)
        if again is None:
            self._note(f"{different} was not what Pyro gives any more: the step was recorded again")
        else:
            entry.recording = None
            self._note(f"steps are eager, since {again} of a replay is not what Pyro gives")

    def _difference(
        self, entry: _Entry, arguments: Arguments, tensors: Sequence[Tensor], weight: float
    ) -> str | None:
        """What differs between a replay and an eager step, in words."""
        assert entry.recording is not None
        with undone(self.networks):
            losses, gradients = entry.recording(tensors)
            buffers = [buffer.clone() for buffer in self._buffers()]
        with undone(self.networks):
            step = eager_step(self.loss_and_grads, *arguments, validate=False)
            expected = [None if p.grad is None else p.grad * weight for p in entry.params]
            expected_buffers = [buffer.clone() for buffer in self._buffers()]
        for got, wanted in zip(losses, step.losses, strict=True):
            wanted = torch.as_tensor(cast(Any, wanted), device=got.device, dtype=got.dtype)
            if not _near(got, wanted, _LOSS, 0.0):
                return "the loss"
        sizes = [g.abs().max() for g in expected if g is not None and g.numel()]
        noise = _NOISE * float(torch.stack(sizes).max()) if sizes else 0.0
        names = {id(p): name for name, p in pyro.get_param_store()._params.items()}
        for parameter, got_, wanted_ in zip(entry.params, gradients, expected, strict=True):
            name = names.get(id(parameter), "a parameter")
            if (got_ is None) != (wanted_ is None):
                return f"whether {name!r} has a gradient"
            if got_ is not None and not _near(got_, cast(Tensor, wanted_), _GRADIENT, noise):
                return f"the gradient of {name!r}"
        if {id(p) for p in step.params} != {id(p) for p in entry.params}:
            return "the set of parameters"
        for got, wanted in zip(buffers, expected_buffers, strict=True):
            if not _near(got.float(), wanted.float(), _GRADIENT, _NOISE):
                return "a buffer"
        return None

    # Leaving no trace

    def _buffers(self) -> list[Tensor]:
        return [buffer for network in self.networks for buffer in network.buffers()]

    def _note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)


def _tensors(args: tuple[object, ...], kwargs: Mapping[str, object]) -> list[Tensor]:
    return [leaf for leaf in (*args, *kwargs.values()) if isinstance(leaf, Tensor)]


def _described(leaf: object) -> object:
    """What of an argument decides the graph; None where that is not known."""
    if isinstance(leaf, Tensor):
        return leaf.shape, leaf.dtype, leaf.device, leaf.requires_grad
    if isinstance(leaf, bool | int | float | str | type(None)):
        return type(leaf), leaf
    return None


def _near(got: Tensor, wanted: Tensor, relative: float, absolute: float) -> bool:
    if got.shape != wanted.shape:
        return False
    if not got.numel():
        return True
    largest = float((got - wanted).abs().max())
    return not largest > relative * float(wanted.abs().max()) + absolute
