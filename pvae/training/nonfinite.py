"""The first operation of a step whose output is not finite, with the user's line."""

import re
import traceback
from collections.abc import Callable
from typing import Any, cast

import pyro
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pvae.pair.locations import program_frame
from pvae.pair.traces import PROGRAM_ERRORS

__all__ = ["first_nonfinite_operation"]

# A line of the traceback that anomaly detection keeps with each node of the graph.
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')


def first_nonfinite_operation(step: Callable[[], object]) -> str | None:
    """Execute a step, and describe its first operation with finite inputs and another output.

    Args:
        step: losses and gradients as Pyro computes them.

    Returns:
        Such as "`log`, my.py:12" or "the derivative of `sqrt`, my.py:12", without the line if the
        operation is not in the programs; None if no operation is found, as on a CUDA device in the
        backward pass.

    Example:
        >>> def step():
        ...     return (torch.zeros(3) + 1 - 1).log()
        >>> print(first_nonfinite_operation(step))
        `log`
    """
    search = _Search()
    try:
        with (
            torch.autograd.set_detect_anomaly(True, check_nan=False),
            pyro.validation_enabled(False),
            search,
        ):
            step()
    except PROGRAM_ERRORS:
        pass  # after what is not finite
    return search.found


class _Search(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: str | None = None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        before = self.found is not None or _finite((args, kwargs))
        out = func(*args, **(kwargs or {}))
        if self.found is None and before and not _made_empty(func) and not _finite(out):
            self.found = _describe(func._schema.name.removeprefix("aten::").strip("_"))
        return out


def _describe(name: str) -> str:
    """The operation that is running, and where the user's code calls it."""
    node = torch._C._current_autograd_node()
    if node is None:
        frames: list[traceback.FrameSummary] = list(traceback.extract_stack())
        text = f"`{name}`"
    else:
        metadata = cast(dict[str, Any], node.metadata)
        stored = "".join(metadata.get("traceback_", []))
        found = _FRAME.finditer(stored)
        frames = [traceback.FrameSummary(m["file"], int(m["line"]), "") for m in found]
        forward = re.sub(r"Backward\d*$", "", node.name())
        text = f"the derivative of `{forward[:1].lower()}{forward[1:]}`"
    where = program_frame(frames)
    return f"{text}, {where}" if where else text


def _finite(values: object) -> bool:
    for leaf in tree_leaves(values):
        if isinstance(leaf, Tensor) and leaf.is_floating_point():
            if not bool(torch.isfinite(leaf).all()):
                return False
        elif isinstance(leaf, float) and not abs(leaf) < float("inf"):
            return False  # as in masked_fill(mask, -inf)
    return True


def _made_empty(func: Any) -> bool:
    return "empty" in func._schema.name
