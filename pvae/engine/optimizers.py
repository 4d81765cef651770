"""A common interface to Pyro's and torch's optimizers."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from pyro.optim import PyroOptim
from pyro.optim.lr_scheduler import PyroLRScheduler
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

__all__ = [
    "MakeOptimizer",
    "MakeScheduler",
    "TorchOptim",
    "end_epoch",
    "learning_rate_of",
    "restore_optimizer",
    "scale_learning_rate",
    "set_gradients",
]

MakeOptimizer = Callable[[Iterable[Tensor]], Optimizer]
MakeScheduler = Callable[[Optimizer], LRScheduler | ReduceLROnPlateau]


class TorchOptim(PyroOptim):
    """One torch optimizer over all parameters; Pyro's own makes one per parameter.

    Parameters that appear at a later step join the optimizer that a callable made. An `Optimizer`
    that the user made keeps its parameters: to freeze a parameter, leave it out.

    Args:
        make: a torch `Optimizer`, or a callable from an iterable of parameters to one.
    """

    def __init__(self, make: Optimizer | MakeOptimizer) -> None:
        if not isinstance(make, Optimizer) and not callable(make):
            raise TypeError(
                f"optimizer is a {type(make).__name__}: give a torch Optimizer, a callable from "
                "parameters to one (such as torch.optim.Adam), or one of pyro.optim"
            )
        if make is torch.optim.LBFGS or isinstance(make, torch.optim.LBFGS):
            raise ValueError(
                "LBFGS evaluates the loss several times per step, and the loss is random: use "
                "torch.optim.Adam"
            )
        self.optimizer = make if isinstance(make, Optimizer) else None
        self.make = None if isinstance(make, Optimizer) else make
        self.scheduler: LRScheduler | ReduceLROnPlateau | None = None

    def prepare(self, params: Iterable[Tensor]) -> Optimizer:
        """The optimizer over at least these parameters; the first call makes it."""
        params = list(params)
        if self.optimizer is None:
            assert self.make is not None
            self.optimizer = self.make(params)
            if not isinstance(self.optimizer, Optimizer):
                raise TypeError(
                    f"the optimizer callable returned a {type(self.optimizer).__name__}, "
                    "not a torch Optimizer"
                )
        elif self.make is not None:
            known = self.optimized()
            new = [p for p in params if id(p) not in known]
            if new:
                self.optimizer.add_param_group({"params": new})
        return self.optimizer

    def given(self) -> list[Tensor]:
        """The parameters of an optimizer that the user made."""
        if self.optimizer is None or self.make is not None:
            return []
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def optimized(self) -> set[int]:
        """Ids of the parameters that the optimizer updates."""
        groups = self.optimizer.param_groups if self.optimizer is not None else []
        return {id(p) for group in groups for p in group["params"]}

    def __call__(self, params: Iterable[Tensor], *args: object, **kwargs: object) -> None:
        """Take a step."""
        optimizer = self.prepare(params)
        optimizer.step()
        # All of its parameters, so that no gradient accumulates unnoticed.
        optimizer.zero_grad()

    def get_state(self) -> dict[str, Any]:
        """State of the optimizer and its scheduler."""
        assert self.optimizer is not None
        return {
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler is not None else None,
        }

    def order(self, params: Mapping[str, Tensor]) -> list[list[str]] | None:
        """Names of the parameters in each group; None if one is not among those named."""
        assert self.optimizer is not None
        names = {id(parameter): name for name, parameter in params.items()}
        groups = [group["params"] for group in self.optimizer.param_groups]
        if any(id(parameter) not in names for group in groups for parameter in group):
            return None
        return [[names[id(parameter)] for parameter in group] for group in groups]

    def match(self, order: Sequence[Sequence[str]], params: Mapping[str, Tensor]) -> None:
        """Group the parameters as `order` returned, since some may have appeared later."""
        assert self.optimizer is not None
        groups = self.optimizer.param_groups
        kept = {name for names in order for name in names}
        for name, parameter in params.items():
            if name not in kept:
                self.optimizer.state.pop(parameter, None)
        del groups[len(order) :]
        for group, names in zip(groups, order, strict=False):
            group["params"] = [params[name] for name in names]
        for names in order[len(groups) :]:
            self.optimizer.add_param_group({"params": [params[name] for name in names]})

    def set_state(self, state_dict: Mapping[str, Any]) -> None:
        """Restore what `get_state` returned."""
        assert self.optimizer is not None
        self.optimizer.load_state_dict(state_dict["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state_dict["scheduler"])

    def end_epoch(self, loss: float) -> None:
        """Advance the learning-rate schedule by one epoch."""
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(loss)
        elif self.scheduler is not None:
            self.scheduler.step()


def set_gradients(trained: list[Tensor], gradients: list[Tensor], divisor: Tensor | None) -> None:
    """Set the gradients of parameters, divided by a number, in place."""
    if divisor is not None and gradients:
        torch._foreach_div_(gradients, divisor)
    for parameter, gradient in zip(trained, gradients, strict=True):
        parameter.grad = gradient


def restore_optimizer(optim: PyroOptim, state: Mapping[str, Any]) -> None:
    """Load a state into an optimizer that may have taken steps already."""
    if not isinstance(optim, TorchOptim):
        # Pyro loads a parameter's state when it makes that parameter's optimizer: make them again.
        optim.optim_objs.clear()
        optim.grad_clip.clear()
    optim.set_state(dict(state))


def scale_learning_rate(optim: PyroOptim, ratio: float) -> None:
    """Multiply the learning rate of a torch optimizer, and that which its schedule starts from."""
    if not isinstance(optim, TorchOptim) or optim.optimizer is None:
        return
    for group in optim.optimizer.param_groups:
        for key in ("lr", "initial_lr"):
            if key in group:
                group[key] = group[key] * ratio
    if isinstance(optim.scheduler, LRScheduler):
        optim.scheduler.base_lrs = [rate * ratio for rate in optim.scheduler.base_lrs]
        optim.scheduler._last_lr = [rate * ratio for rate in optim.scheduler.get_last_lr()]


def learning_rate_of(optim: PyroOptim) -> float | None:
    """The learning rate of the first parameter group; None if there is none."""
    if isinstance(optim, TorchOptim):
        optimizer = optim.optimizer
    else:
        first = next(iter(optim.optim_objs.values()), None)
        optimizer = getattr(first, "optimizer", first)
    if optimizer is None:
        return None
    rate = optimizer.param_groups[0].get("lr")
    return float(rate) if rate is not None else None


def end_epoch(optim: PyroOptim, loss: float) -> None:
    """Advance Pyro's or torch's learning-rate schedule by one epoch."""
    if isinstance(optim, TorchOptim):
        optim.end_epoch(loss)
    elif isinstance(optim, PyroLRScheduler):
        plateau = any(isinstance(o, ReduceLROnPlateau) for o in optim.optim_objs.values())
        optim.step(loss) if plateau else optim.step()
