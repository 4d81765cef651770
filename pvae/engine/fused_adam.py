"""Adam's fused kernel without the overhead of a torch optimizer's `step`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer

from pvae.engine.cuda_graph import graph_of
from pvae.engine.recording import on_cuda
from pvae.engine.streams import Fork

__all__ = ["FusedAdam", "is_fused"]

# Hyperparameters other than the learning rate, which schedules change.
_FIXED = ("betas", "eps", "weight_decay", "amsgrad", "maximize")

_AT_ONCE, _CALLS = 36, 8  # tensors that one launch of the kernel takes, and launches at a time
_SMALLEST = 4096  # elements of a piece, which take as long as a launch


@dataclass(frozen=True)
class _Group:
    """The parameters of one group that have a gradient, with their state."""

    options: dict[str, Any]
    places: list[int]
    params: list[Tensor]
    averages: list[Tensor]
    squares: list[Tensor]
    largest: list[Tensor]
    steps: list[Tensor]
    counts: Tensor

    def call(
        self, gradients: Sequence[Tensor], divisor: Tensor | None, rate: float | Tensor
    ) -> None:
        """Call the kernel, for gradients in the order of the parameters."""
        options = self.options
        kernel = torch._fused_adam_
        if options["decoupled_weight_decay"]:
            kernel = torch._fused_adamw_
        beta1, beta2 = options["betas"]
        kernel(
            self.params,
            list(gradients),
            self.averages,
            self.squares,
            self.largest,
            self.steps,
            lr=rate,
            beta1=beta1,
            beta2=beta2,
            weight_decay=options["weight_decay"],
            eps=options["eps"],
            amsgrad=options["amsgrad"],
            maximize=options["maximize"],
            grad_scale=divisor,
            found_inf=None,
        )

    def pieces(self, gradients: Sequence[Tensor]) -> list[tuple["_Group", list[Tensor]]]:
        """Groups of views of these parameters and their state, each with its gradients."""
        lists = [self.params, list(gradients), self.averages, self.squares]
        lists += [self.largest] if self.largest else []
        size = sum(p.numel() for p in self.params) // (_AT_ONCE * _CALLS) + 1
        size = max(_SMALLEST, (size + 3) // 4 * 4)  # four elements are read at once
        cut: list[list[Tensor]] = [[] for _ in [*lists, self.steps]]
        for *tensors, step in zip(*lists, self.steps, strict=True):
            whole = not all(tensor.is_contiguous() for tensor in tensors)
            parts = [[t] if whole else t.view(-1).split(size) for t in tensors]
            for into, views in zip(cut, [*parts, [step] * len(parts[0])], strict=True):
                into += views
        found = []
        for start in range(0, len(cut[0]), _AT_ONCE):
            params, own, averages, squares, *more, steps = (
                views[start : start + _AT_ONCE] for views in cut
            )
            largest = more[0] if more else []
            found.append((replace(self, params=params, averages=averages, squares=squares,
                                  largest=largest, steps=steps), own))  # fmt: skip
        return found


def is_fused(optimizer: Optimizer) -> bool:
    """Whether the optimizer is Adam or AdamW in torch's fused form, with nothing attached to it."""
    return (
        type(optimizer) in (Adam, AdamW)
        and all(group["fused"] and not group["differentiable"] for group in optimizer.param_groups)
        and not optimizer._optimizer_step_pre_hooks
        and not optimizer._optimizer_step_post_hooks
    )


class FusedAdam:
    """Takes the steps of a fused Adam or AdamW, on its state, in a third of the time.

    The first step of a parameter, which creates the state, must be the optimizer's own.

    Args:
        optimizer: one that `is_fused`.
        trained: parameters that get a gradient; the optimizer's others are left alone.
    """

    def __init__(self, optimizer: Optimizer, trained: list[Tensor]) -> None:
        self.optimizer, self.trained = optimizer, trained
        self.groups: list[_Group] = []
        self._launch: _Launch | None = None
        self._rates: list[Tensor] = []
        self._copied: list[object] = []
        self.complete = True
        places = {id(parameter): place for place, parameter in enumerate(trained)}
        for group in optimizer.param_groups:
            params = [p for p in group["params"] if id(p) in places]
            states = [optimizer.state.get(p, {}) for p in params]
            if not all(states) or len({(p.device, p.dtype) for p in params}) > 1:
                self.complete = False
            if not params or not self.complete:
                continue
            maxima = [s["max_exp_avg_sq"] for s in states] if group["amsgrad"] else []
            # The counts of steps side by side, so that one operation raises them all.
            counts = torch.stack([s["step"] for s in states])
            for state, count in zip(states, counts, strict=True):
                state["step"] = count
            self.groups.append(
                _Group(
                    group,
                    [places[id(p)] for p in params],
                    [p.detach() for p in params],
                    [s["exp_avg"] for s in states],
                    [s["exp_avg_sq"] for s in states],
                    maxima,
                    [s["step"] for s in states],
                    counts,
                )
            )

    def serves(self, optimizer: Optimizer, trained: list[Tensor]) -> bool:
        """Whether optimizer, state and trained parameters are still the same objects."""
        if self.trained is not trained:
            if list(map(id, self.trained)) != list(map(id, trained)):
                return False
            self.trained = trained
        if not self.complete or self.optimizer is not optimizer:
            return False
        # A state that was loaded has groups and tensors of its own.
        return all(
            any(group.options is options for options in optimizer.param_groups)
            and optimizer.state[trained[group.places[0]]]["step"] is group.steps[0]
            for group in self.groups
        )

    def fixed(self) -> list[tuple[object, ...]]:
        """Hyperparameters that a CUDA graph of an update has built in."""
        return [tuple(group.options[key] for key in _FIXED) for group in self.groups]

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
            return
        self.update(gradients, divisor, self.rates())  # of float32, as a CUDA graph reads them
        # Gradients of a CUDA graph do not move, so that the update can be a CUDA graph as well.
        self._launch = _Launch(self, gradients, divisor)

    def count(self) -> None:
        """Count a step, before its update."""
        with torch.no_grad():
            for group in self.groups:
                group.counts.add_(1)

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
