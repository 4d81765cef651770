"""The gradient of a batch whose rows are divided among processes."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import Tensor

from pvae.engine.step import Step

__all__ = ["AllReduce", "ProcessEndedError", "broadcast", "together"]


class ProcessEndedError(RuntimeError):
    """Another process of the training ended, or takes part in another way."""


def together(collective: Callable[[], object]) -> None:
    """Call a collective operation, in which all processes take part.

    Raises:
        ProcessEndedError: if one of them does not.
    """
    try:
        collective()
    except RuntimeError as error:
        # Without the place in the library's source, and its advice.
        reason = re.sub(r"^\[[^\]]*\] ", "", str(error)).partition("\n")[0].partition(". ")[0]
        raise ProcessEndedError(
            f"process {dist.get_rank()} of {dist.get_world_size()} cannot go on: another one "
            f"ended, or raised an error of its own, which its message says ({reason})"
        ) from error


class AllReduce:
    """Adds the gradients and losses of all processes, weighted by their rows, in one operation.

    All parameters have a gradient afterwards, which is 0 where no process has one.

    Args:
        parameters: returns the pair's parameters, in the same order in all processes.

    Attributes:
        rows: the number of rows of this process in the next step; 0 if it has none of its own.
        loss_rows: that of its last batch, if the step has several.
    """

    def __init__(self, parameters: Callable[[], Mapping[str, Tensor]]) -> None:
        self.rows = self.loss_rows = 0
        self._parameters = parameters
        self._trained: list[Tensor] = []
        self._flat = torch.zeros(0)
        self._views: list[Tensor] = []
        self._places: dict[int, int] = {}

    def __call__(self, done: Step, value: Tensor, divisor: Tensor) -> tuple[Step, Tensor, Tensor]:
        """Combine a step with those of the other processes.

        Args:
            done: the step on this process's rows.
            value: its loss in nats per datum, shape ().
            divisor: turns its gradients into nats per datum, shape ().

        Returns:
            The step with the sum of gradients, the loss of the whole batch, and the divisor of the
            sum.
        """
        if not self._views or any(id(p) not in self._places for p in done.trained):
            self._prepare(done.trained)
        self._flat.zero_()
        if self.rows:
            into = [self._views[self._places[id(p)]] for p in done.trained]
            if into:
                torch._foreach_copy_(into, done.gradients)
            self._flat *= self.rows / divisor
            self._flat[-1] = self.rows
        if self.loss_rows:
            self._flat[-3] = value * self.loss_rows
            self._flat[-2] = self.loss_rows
        return self._combine(done)

    def spoil(self, done: Step) -> tuple[Step, Tensor, Tensor]:
        """Take part in a step that failed here: its loss and gradient become NaN everywhere."""
        if not self._views:
            self._prepare([])
        self._flat.fill_(torch.nan)
        return self._combine(done)

    def _combine(self, done: Step) -> tuple[Step, Tensor, Tensor]:
        together(lambda: dist.all_reduce(self._flat))
        params = list(dict.fromkeys([*done.params, *self._trained]))
        reduced = replace(done, params=params, trained=self._trained, gradients=self._views)
        return reduced, self._flat[-3] / self._flat[-2], self._flat[-1]

    def _prepare(self, used: list[Tensor]) -> None:
        """Lay out all parameters; those that appeared get the values of the first process."""
        known = set(self._places)
        every = {id(p): p for p in (*self._parameters().values(), *used) if p.requires_grad}
        self._trained = list(every.values())
        broadcast([p.detach() for p in self._trained if id(p) not in known])
        self._places = {id(p): place for place, p in enumerate(self._trained)}
        sizes = [p.numel() for p in self._trained]
        device = self._trained[0].device if self._trained else None
        self._flat = torch.zeros(sum(sizes) + 3, device=device)
        parts = self._flat[:-3].split(sizes)
        self._views = [part.view(p.shape) for part, p in zip(parts, self._trained, strict=True)]


def broadcast(tensors: Sequence[Tensor]) -> None:
    """Give tensors the values that they have in the first process."""
    with torch.no_grad():
        for tensor in tensors:
            together(lambda tensor=tensor: dist.broadcast(tensor, 0))  # type: ignore[misc]
