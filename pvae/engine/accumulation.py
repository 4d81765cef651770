"""Gradient accumulation: the sum of the gradients of several batches, and whether it is finite."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from pvae.engine.step import Step

__all__ = ["GradientSum", "finite"]


class GradientSum:
    """The sum of the gradients of several steps, and the buffers from before them.

    Args:
        networks: those whose buffers can be restored.

    Attributes:
        divisor: the sum of the steps' divisors.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        self.divisor = 0
        self._sums: dict[int, tuple[Tensor, Tensor]] = {}
        buffers = {id(b): b for network in networks for b in network.buffers()}
        self._before = [(buffer, buffer.clone()) for buffer in buffers.values()]

    def add(self, done: Step, divisor: int) -> None:
        """Add the gradients of a step, which may be overwritten by the next one."""
        self.divisor += divisor
        for parameter, gradient in zip(done.trained, done.gradients, strict=True):
            _, known = self._sums.get(id(parameter), (None, None))
            total = gradient.clone() if known is None else known.add_(gradient)
            self._sums[id(parameter)] = parameter, total
            parameter.grad = None

    def plus(self, done: Step) -> Step:
        """The step with the sum added to its gradients."""
        gradients, trained = list(done.gradients), list(done.trained)
        own = {id(parameter) for parameter in trained}
        for place, parameter in enumerate(trained):
            if id(parameter) in self._sums:
                gradients[place] = gradients[place] + self._sums[id(parameter)][1]
        others = [pair for key, pair in self._sums.items() if key not in own]
        trained += [parameter for parameter, _ in others]
        gradients += [total for _, total in others]
        params = list(dict.fromkeys([*done.params, *trained]))
        return replace(done, params=params, trained=trained, gradients=gradients)

    def restore_buffers(self) -> None:
        """Undo what the steps changed in buffers."""
        with torch.no_grad():
            for buffer, value in self._before:
                buffer.copy_(value)


def finite(tensors: Sequence[Tensor]) -> bool:
    """Whether all values are finite; reads the device once."""
    sums = torch.stack([tensor.abs().amax().float() for tensor in tensors if tensor.numel()])
    return bool(torch.isfinite(sums).all())
