"""Parameters that torch's fused kernel of Adam updates together, with their state."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

__all__ = ["ClippedGroup", "Group", "hyperparameters"]

# Hyperparameters other than the learning rate, which schedules change.
FIXED = (
    "betas", "eps", "weight_decay", "amsgrad", "maximize", "decoupled_weight_decay", "clip_norm",
    "lrd", "centered_variance",
)  # fmt: skip

_AT_ONCE, _CALLS = 36, 8  # tensors that one launch of the kernel takes, and launches at a time
_SMALLEST = 4096  # elements of a piece, which take as long as a launch
_EVERY = 32  # steps after which averages that are almost 0 become 0
_TINY = torch.finfo(torch.float32).tiny


def hyperparameters(options: dict[str, Any]) -> tuple[object, ...]:
    """What the parameters of one call of the kernel have in common."""
    rate = options["lr"]
    return id(rate) if isinstance(rate, Tensor) else rate, *(options.get(key) for key in FIXED)


@dataclass(frozen=True)
class Group:
    """Parameters with equal hyperparameters that have a gradient, with their state.

    Attributes:
        members: the optimizers' parameter groups that they are in.
        places: of the parameters among those that are trained.
        params: the parameters.
        averages: those of the gradients.
        squares: those of the squared gradients.
        largest: maxima of `squares`, or nothing.
        steps: numbers of steps, tensors.
        counts: the same side by side, so that one operation raises them all.
        states: the optimizers' states of the parameters.
    """

    members: list[dict[str, Any]]
    places: list[int]
    params: list[Tensor]
    averages: list[Tensor]
    squares: list[Tensor]
    largest: list[Tensor]
    steps: list[Tensor]
    counts: Tensor
    states: list[dict[str, Any]]

    @property
    def options(self) -> dict[str, Any]:
        """The hyperparameters."""
        return self.members[0]

    def alike(self) -> bool:
        """Whether the hyperparameters are still equal."""
        if len(self.members) == 1:
            return True
        first, *others = map(hyperparameters, self.members)
        return all(other == first for other in others)

    def count(self) -> None:
        """Count a step, before its update."""
        self.counts.add_(1)

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

    def clear_denormals(self) -> None:
        """Turn averages that are about to become denormal into 0, every 32 steps.

        The average of a gradient that is 0 in most batches, as of pixels that are seldom seen,
        shrinks below float32's normal numbers, with which a CPU computes many times more slowly.
        Such averages move no parameter.
        """
        if int(self.counts[0]) % _EVERY:
            return
        beta1, beta2 = self.options["betas"]
        for tensors, beta in ((self.averages, beta1), (self.squares, beta2)):
            least = min(_TINY / max(beta, 0.1) ** _EVERY, 1e-30)
            for tensor in tensors:
                if tensor.dtype == torch.float32:
                    torch.ops.aten.hardshrink.out(tensor, least, out=tensor)

    def pieces(self, gradients: Sequence[Tensor]) -> list[tuple["Group", list[Tensor]]]:
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


class ClippedGroup(Group):
    """Parameters that Pyro's `ClippedAdam` updates, without its loop over tensors.

    Its eps is added to a root that is not corrected for the first steps, and Adam's to one that is.
    """

    def count(self) -> None:
        """Count a step, and lower the learning rate."""
        super().count()
        for state in self.states:
            state["step"] += 1
        for options in self.members:
            options["lr"] *= options["lrd"]

    def call(
        self, gradients: Sequence[Tensor], divisor: Tensor | None, rate: float | Tensor
    ) -> None:
        """Call the kernel for clipped gradients, with the eps that has this one's effect."""
        own = list(gradients)
        if divisor is not None:
            torch._foreach_div_(own, divisor)
        torch._foreach_clamp_min_(own, -self.options["clip_norm"])
        torch._foreach_clamp_max_(own, self.options["clip_norm"])
        corrected = 1 - self.options["betas"][1] ** self.states[0]["step"]
        changed = {"decoupled_weight_decay": False, "amsgrad": False, "maximize": False}
        changed["eps"] = self.options["eps"] / math.sqrt(corrected)
        Group.call(replace(self, members=[self.options | changed]), own, None, rate)
