"""Reads of tensor values while a step is recorded."""

import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pyro
import torch
import torch.nn.functional as F
from pyro.infer.util import Dice, torch_item
from pyro.util import torch_isnan, warn_if_nan
from torch import Tensor
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing
from torch.overrides import TorchFunctionMode

from pvae.engine.guards import Read
from pvae.pair.locations import user_frame

__all__ = ["CaptureError", "Reads"]

_LONGEST = 256  # elements of a list that is read
_READS = {
    getattr(Tensor, name): name
    for name in ("item", "tolist", "__bool__", "__int__", "__float__", "__index__")
}
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8)
_NAN_CHECKS = (warn_if_nan.__code__, torch_isnan.__code__)
_DISTRIBUTIONS = tuple(
    str(Path(str(package.__file__)).parent) + os.sep
    for package in (torch.distributions, pyro.distributions)
)
_EXPECTATION = Dice.compute_expectation.__code__


class CaptureError(Exception):
    """A step that cannot be recorded; the message names the reason and the line of the user."""


class Reads(TorchFunctionMode):
    """Collects what a step reads of tensors, except the reads that Pyro makes of its losses.

    Args:
        allowed: whether a step may read values.

    Attributes:
        tensors: those that were read.
        reads: what was read of each.
        masks: lines that index with a boolean mask, so that shapes depend on values.
    """

    def __init__(self, allowed: bool) -> None:
        super().__init__()
        self.allowed = allowed
        self.tensors: list[Tensor] = []
        self.reads: list[Read] = []
        self.masks: list[str] = []

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        caller = sys._getframe(1)
        code = caller.f_code
        if func in _READS:
            if code in _NAN_CHECKS:
                return False  # training checks for NaN itself
            if code is _EXPECTATION:
                return False  # the general branch, whose sum is the same
            of_objective = (
                Path(code.co_filename).parent.name == "infer" and "pyro" in code.co_filename
            )
            if func is Tensor.item and (code is torch_item.__code__ or of_objective):
                return args[0].detach()  # the loss, which stays a tensor
            return self._read(args[0], _READS[func])
        if func is Tensor.masked_select and code is _EXPECTATION:
            # The sum of what is selected, in a shape that does not depend on values.
            return torch.where(args[1], args[0], 0.0)
        if func in (torch.equal, Tensor.equal):
            one, other = args
            return one.shape == other.shape and self._read((one == other).all(), "__bool__")
        if func in (torch.allclose, Tensor.allclose):
            return self._read(torch.isclose(*args, **kwargs).all(), "__bool__")
        if func in (torch.is_nonzero, Tensor.is_nonzero):
            return self._read(args[0], "__bool__")
        if func in (F.one_hot, torch._C._nn.one_hot):
            of_draws = code.co_filename.startswith(_DISTRIBUTIONS)
            return self._one_hot(*args, of_draws=of_draws, **kwargs)
        if func is Tensor.__getitem__:
            return self._item(*args)
        if func is Tensor.numpy:
            raise CaptureError(f"{_line(caller)}: numpy reads the values of a tensor")
        return func(*args, **kwargs)

    def _read(self, tensor: Tensor, how: str) -> object:
        """What is read of a tensor now, and must be read of it in each replay."""
        caller = sys._getframe(2)
        if not self.allowed or tensor.numel() > _LONGEST:
            raise CaptureError(
                f"{_line(caller)}: {how} reads the value of a tensor, on which the step may depend"
            )
        with disable_proxy_modes_tracing():
            value = getattr(tensor, how)()
        self.tensors.append(tensor.detach())
        self.reads.append(Read(how, value, _line(caller)))
        return value

    def _item(self, tensor: Tensor, index: object) -> Tensor:
        """`tensor[index]`; a single integer in a tensor would be read."""
        indices = index if isinstance(index, tuple) else (index,)
        kinds = [(i.dtype, i.dim()) for i in indices if isinstance(i, Tensor)]
        if any(kind in (torch.bool, torch.uint8) for kind, _ in kinds):
            self.masks.append(_line(sys._getframe(2)))
        if len(indices) == 1 and kinds and kinds[0][0] in _INTEGERS and not kinds[0][1]:
            return tensor.index_select(0, cast(Tensor, indices[0]).reshape(1).long()).squeeze(0)
        return tensor[index]  # type: ignore[index]

    def _one_hot(self, labels: Tensor, num_classes: int = -1, *, of_draws: bool) -> Tensor:
        """`F.one_hot`, which reads whether labels are in range where no recording can see it."""
        if num_classes < 0:
            num_classes = cast(int, self._read(labels.max() + 1, "__int__"))
        if not of_draws:
            in_range = ((labels >= 0) & (labels < num_classes)).all()
            with disable_proxy_modes_tracing():
                if not in_range:
                    return F.one_hot(labels, num_classes)  # raises torch's error
            self._read(in_range, "__bool__")
        classes = torch.arange(num_classes, device=labels.device)
        return (labels.unsqueeze(-1) == classes).long()


def _line(caller: Any) -> str:
    own = user_frame(traceback.extract_stack(caller))
    return own or f"{caller.f_code.co_filename}:{caller.f_lineno}"
