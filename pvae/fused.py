"""Adam's fused kernel, called without what a torch optimizer's `step` does around it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer

__all__ = ["FusedAdam", "is_fused"]


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


def is_fused(optimizer: Optimizer) -> bool:
    """Whether the optimizer is Adam or AdamW in torch's fused form, with nothing attached to it."""
    return (
        type(optimizer) in (Adam, AdamW)
        and all(group["fused"] and not group["differentiable"] for group in optimizer.param_groups)
        and not optimizer._optimizer_step_pre_hooks
        and not optimizer._optimizer_step_post_hooks
    )


class FusedAdam:
    """Steps of a fused Adam or AdamW on its own state and hyperparameters, in a third of the time.

    Its first step for a parameter, which makes the state, has to be the optimizer's own.

    Args:
        optimizer: one that `is_fused`.
        trained: parameters that get a gradient; the optimizer's others are left alone.
    """

    def __init__(self, optimizer: Optimizer, trained: list[Tensor]) -> None:
        self.optimizer, self.trained = optimizer, trained
        self.groups: list[_Group] = []
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
            self.groups.append(
                _Group(
                    group,
                    [places[id(p)] for p in params],
                    [p.detach() for p in params],
                    [s["exp_avg"] for s in states],
                    [s["exp_avg_sq"] for s in states],
                    maxima,
                    [s["step"] for s in states],
                )
            )

    def serves(self, optimizer: Optimizer, trained: list[Tensor]) -> bool:
        """Whether this is still what it was made for, and its state what it was made with."""
        if not (self.complete and self.trained is trained and self.optimizer is optimizer):
            return False
        # A state that was loaded has groups and tensors of its own.
        return all(
            any(group.options is options for options in optimizer.param_groups)
            and optimizer.state[trained[group.places[0]]]["step"] is group.steps[0]
            for group in self.groups
        )

    def step(self, gradients: Sequence[Tensor], divisor: Tensor | None) -> None:
        """Take a step along gradients, of the `trained`, that are to be divided by a number."""
        for group in self.groups:
            options = group.options
            decoupled = options["decoupled_weight_decay"]
            kernel = torch._fused_adamw_ if decoupled else torch._fused_adam_
            beta1, beta2 = options["betas"]
            with torch.no_grad():
                torch._foreach_add_(group.steps, 1)
                kernel(
                    group.params,
                    [gradients[place] for place in group.places],
                    group.averages,
                    group.squares,
                    group.largest,
                    group.steps,
                    lr=options["lr"],
                    beta1=beta1,
                    beta2=beta2,
                    weight_decay=options["weight_decay"],
                    eps=options["eps"],
                    amsgrad=options["amsgrad"],
                    maximize=options["maximize"],
                    grad_scale=divisor,
                    found_inf=None,
                )
