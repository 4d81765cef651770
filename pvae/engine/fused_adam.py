"""Adam's fused kernel without the overhead of a torch optimizer's `step`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer

from pvae.engine.cuda_graph import graph_of
from pvae.engine.recording import on_cuda

__all__ = ["FusedAdam", "is_fused"]

# Hyperparameters other than the learning rate, which schedules change.
_FIXED = ("betas", "eps", "weight_decay", "amsgrad", "maximize")


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
        if not (self.complete and self.trained is trained and self.optimizer is optimizer):
            return False
        # A state that was loaded has groups and tensors of its own.
        return all(
            any(group.options is options for options in optimizer.param_groups)
            and optimizer.state[trained[group.places[0]]]["step"] is group.steps[0]
            for group in self.groups
        )

    def step(self, gradients: Sequence[Tensor], divisor: Tensor | None) -> None:
        """Take a step along the gradients of `trained`, divided by a number."""
        if self._launch is not None and self._launch.serves(gradients, divisor):
            self._launch(divisor)
            return
        self.update(gradients, divisor, [group.options["lr"] for group in self.groups])
        # Gradients of a CUDA graph do not move, so that the update can be a CUDA graph as well.
        self._launch = _Launch(self, gradients, divisor) if on_cuda(gradients[:1]) else None

    def update(
        self, gradients: Sequence[Tensor], divisor: Tensor | None, rates: Sequence[float | Tensor]
    ) -> None:
        """Call the kernel with these learning rates, one per group."""
        for group, rate in zip(self.groups, rates, strict=True):
            options = group.options
            decoupled = options["decoupled_weight_decay"]
            kernel = torch._fused_adamw_ if decoupled else torch._fused_adam_
            beta1, beta2 = options["betas"]
            with torch.no_grad():
                group.counts.add_(1)
                kernel(
                    group.params,
                    [gradients[place] for place in group.places],
                    group.averages,
                    group.squares,
                    group.largest,
                    group.steps,
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


class _Launch:
    """The update along gradients that do not move, as a CUDA graph.

    It is captured at the second update, since the first one has warmed up.
    """

    def __init__(
        self, adam: FusedAdam, gradients: Sequence[Tensor], divisor: Tensor | None
    ) -> None:
        self.adam, self.gradients = adam, list(gradients)
        self.fixed = self._describe(gradients, divisor)
        device = gradients[0].device
        self.by = None if divisor is None else torch.zeros((), device=device)
        self.rates = [torch.zeros((), device=device) for _ in adam.groups]
        self.copied: list[object] = [None] * (1 + len(adam.groups))
        self.launch: Callable[[], None] | None = None

    def _describe(self, gradients: Sequence[Tensor], divisor: Tensor | None) -> tuple[object, ...]:
        """What the graph has built in."""
        options = [tuple(group.options[key] for key in _FIXED) for group in self.adam.groups]
        return ([gradient.data_ptr() for gradient in gradients], divisor is None, options)

    def serves(self, gradients: Sequence[Tensor], divisor: Tensor | None) -> bool:
        return self._describe(gradients, divisor) == self.fixed

    def __call__(self, divisor: Tensor | None) -> None:
        values = [divisor, *[group.options["lr"] for group in self.adam.groups]]
        for place, (into, value) in enumerate(zip([self.by, *self.rates], values, strict=True)):
            if into is None or (not isinstance(value, Tensor) and value == self.copied[place]):
                continue
            into.copy_(value) if isinstance(value, Tensor) else into.fill_(value)
            self.copied[place] = value
        if self.launch is None:
            self.launch, _ = graph_of(lambda: self.adam.update(self.gradients, self.by, self.rates))
        self.launch()
