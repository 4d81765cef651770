"""Adam's fused kernel without the overhead of the optimizers' own `step`."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from pyro.optim.clipped_adam import ClippedAdam
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer

from pvae.engine.adam_group import FIXED, ClippedGroup, Group, hyperparameters
from pvae.engine.cuda_graph import graph_of
from pvae.engine.recording import on_cuda
from pvae.engine.streams import Fork

__all__ = ["FusedAdam", "is_adam", "is_fused"]


def is_fused(optimizer: Optimizer) -> bool:
    """Whether the optimizer is Adam or AdamW in torch's fused form, with nothing attached to it."""
    fused = all(group.get("fused") for group in optimizer.param_groups)
    return fused and _has_nothing_attached(optimizer)


def is_adam(optimizer: Optimizer) -> bool:
    """Whether it computes what the fused kernel does, but for rounding, on a CPU.

    These are Adam and AdamW in the form that torch chooses by itself, and Pyro's ClippedAdam.
    """
    return _has_nothing_attached(optimizer) and all(
        not group.get("foreach")
        and not group.get("capturable")
        and not group.get("centered_variance")
        and (group.get("fused") or group.get("fused") is None)
        and all(p.dtype == torch.float32 and not p.is_cuda for p in group["params"])
        for group in optimizer.param_groups
    )


def _has_nothing_attached(optimizer: Optimizer) -> bool:
    return (
        type(optimizer) in (Adam, AdamW, ClippedAdam)
        and not any(group.get("differentiable") for group in optimizer.param_groups)
        and not optimizer._optimizer_step_pre_hooks
        and not optimizer._optimizer_step_post_hooks
    )


_Member = tuple[dict[str, Any], Tensor, dict[str, Any]]  # parameter group, parameter, state


def _group(members: Sequence[_Member], places: Mapping[int, int], *, clipped: bool) -> Group:
    """Parameters with equal hyperparameters, whose counts of steps are put side by side."""
    options = {id(of): of for of, _, _ in members}
    params, states = [p for _, p, _ in members], [state for _, _, state in members]
    counts = torch.stack([torch.as_tensor(s["step"], dtype=torch.float32) for s in states])
    if not clipped:
        for state, count in zip(states, counts, strict=True):
            state["step"] = count
    largest = [s["max_exp_avg_sq"] for s in states] if members[0][0].get("amsgrad") else []
    return (ClippedGroup if clipped else Group)(
        list(options.values()),
        [places[id(p)] for p in params],
        [p.detach() for p in params],
        [s["exp_avg"] for s in states],
        [s["exp_avg_sq"] for s in states],
        largest,
        list(counts),
        counts,
        states,
    )


class FusedAdam:
    """Takes the steps of Adam, AdamW or ClippedAdam, on their state, in a fraction of the time.

    The first step of a parameter, which creates the state, must be the optimizer's own.

    Args:
        optimizers: those that `is_fused` or `is_adam`.
        trained: parameters that get a gradient; the optimizers' others are left alone.

    Attributes:
        others: those.
        groups: the parameters by their hyperparameters.
        complete: whether all parameters have a state.
    """

    def __init__(self, optimizers: Sequence[Optimizer], trained: list[Tensor]) -> None:
        self.optimizers, self.trained = list(optimizers), trained
        self.groups: list[Group] = []
        self._launch: _Launch | None = None
        self._rates: list[Tensor] = []
        self._copied: list[object] = []
        places = {id(parameter): place for place, parameter in enumerate(trained)}
        found: dict[tuple[object, ...], list[_Member]] = {}
        self.complete = True
        self._sources: list[tuple[Optimizer, int, _Member]] = []
        self.others: list[Tensor] = []
        for optimizer in self.optimizers:
            clipped = isinstance(optimizer, ClippedAdam)
            for number, options in enumerate(optimizer.param_groups):
                params = [p for p in options["params"] if id(p) in places]
                self.others += [p for p in options["params"] if id(p) not in places]
                states = [optimizer.state.get(p, {}) for p in params]
                # ClippedAdam changes the rate of parameters without a gradient, too.
                if not all(states) or (clipped and len(params) < len(options["params"])):
                    self.complete = False
                    return
                members = [(options, *pair) for pair in zip(params, states, strict=True)]
                self._sources += [(optimizer, number, member) for member in members[:1]]
                for _, p, state in members:
                    step = state["step"] if clipped else None
                    key = (clipped, p.device, p.dtype, step, hyperparameters(options))
                    found.setdefault(key, []).append((options, p, state))
        for (of_pyro, *_), members in found.items():
            self.groups.append(_group(members, places, clipped=bool(of_pyro)))

    def serves(self, optimizers: Sequence[Optimizer], trained: list[Tensor]) -> bool:
        """Whether optimizers, state and trained parameters are still the same objects."""
        if self.trained is not trained:
            if list(map(id, self.trained)) != list(map(id, trained)):
                return False
            self.trained = trained
        if not self.complete or list(map(id, self.optimizers)) != list(map(id, optimizers)):
            return False
        # A state that was loaded has groups and tensors of its own.
        return all(group.alike() for group in self.groups) and all(
            len(optimizer.param_groups) > number
            and optimizer.param_groups[number] is options
            and optimizer.state.get(parameter) is state
            for optimizer, number, (options, parameter, state) in self._sources
        )

    def fixed(self) -> list[tuple[object, ...]]:
        """Hyperparameters that a CUDA graph of an update has built in."""
        return [tuple(group.options.get(key) for key in FIXED) for group in self.groups]

    def rates(self) -> list[Tensor]:
        """The learning rates, in tensors on the parameters' device that later calls update."""
        if not self._rates:
            self._rates = [torch.zeros((), device=g.params[0].device) for g in self.groups]
            self._copied = [None] * len(self.groups)
        for place, group in enumerate(self.groups):
            rate = group.options["lr"]
            if isinstance(rate, Tensor):
                self._rates[place].copy_(rate)
            elif rate != self._copied[place]:
                self._rates[place].fill_(rate)
                self._copied[place] = rate
        return self._rates

    def step(self, gradients: Sequence[Tensor], divisor: Tensor | None) -> None:
        """Take a step along the gradients of `trained`, divided by a number."""
        if self._launch is not None and self._launch.serves(gradients, divisor):
            self._launch(divisor)
            return
        self.count()
        if not on_cuda(gradients[:1]):
            self.update(gradients, divisor, [group.options["lr"] for group in self.groups])
            with torch.no_grad():
                for group in self.groups:
                    group.clear_denormals()
            return
        self.update(gradients, divisor, self.rates())  # of float32, as a CUDA graph reads them
        # Gradients of a CUDA graph do not move, so that the update can be a CUDA graph as well.
        self._launch = _Launch(self, gradients, divisor)

    def count(self) -> None:
        """Count a step, before its update."""
        with torch.no_grad():
            for group in self.groups:
                group.count()

    def update(
        self, gradients: Sequence[Tensor], divisor: Tensor | None, rates: Sequence[float | Tensor]
    ) -> None:
        """Call the kernel with these learning rates, one per group."""
        with torch.no_grad():
            for group, rate in zip(self.groups, rates, strict=True):
                group.call([gradients[place] for place in group.places], divisor, rate)

    def update_in_pieces(
        self, gradients: Sequence[Tensor], divisor: Tensor | None, rates: Sequence[float | Tensor]
    ) -> None:
        """Call the kernel for pieces of the parameters, beside each other in a CUDA graph.

        The kernel occupies a GPU with one block per 65,536 elements, which are a few of a small
        network. The results are the same.
        """
        calls = []
        for group, rate in zip(self.groups, rates, strict=True):
            pieces = group.pieces([gradients[place] for place in group.places])
            calls += [partial(piece.call, own, divisor, rate) for piece, own in pieces]
        with torch.no_grad(), Fork() as fork:
            for call in calls[1:]:
                fork.start(call)
            for call in calls[:1]:  # none without gradients
                call()


class _Launch:
    """The update along gradients that do not move, as a CUDA graph.

    It is captured at the second update, since the first one has warmed up.
    """

    def __init__(
        self, adam: FusedAdam, gradients: Sequence[Tensor], divisor: Tensor | None
    ) -> None:
        self.adam, self.gradients = adam, list(gradients)
        self.fixed = self._describe(gradients, divisor)
        self.by = None if divisor is None else torch.zeros((), device=gradients[0].device)
        self.launch: Callable[[], None] | None = None

    def _describe(self, gradients: Sequence[Tensor], divisor: Tensor | None) -> tuple[object, ...]:
        """What the graph has built in."""
        places = [gradient.data_ptr() for gradient in gradients]
        return places, divisor is None, self.adam.fixed()

    def serves(self, gradients: Sequence[Tensor], divisor: Tensor | None) -> bool:
        return self._describe(gradients, divisor) == self.fixed

    def __call__(self, divisor: Tensor | None) -> None:
        rates = self.adam.rates()
        if self.by is not None and divisor is not None:
            self.by.copy_(divisor)
        if self.launch is None:

            def work() -> None:
                self.adam.count()
                self.adam.update_in_pieces(self.gradients, self.by, rates)

            self.launch, _ = graph_of(work)
        self.launch()
