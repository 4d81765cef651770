"""Particles as additional rows of a batch."""

from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from pyro.poutine.util import site_is_subsample
from torch import Tensor

__all__ = ["Oversized", "tiled", "tiled_arguments"]


def tiled(batch: tuple[Tensor, ...], count: int) -> tuple[Tensor, ...]:
    """Repeat a batch `count` times along its rows: row r of particle k is row k * rows + r.

    Example:
        >>> tiled((torch.tensor([1, 2]),), 2)
        (tensor([1, 2, 1, 2]),)
    """
    return tuple(part.repeat(count, *(1,) * (part.dim() - 1)) for part in batch)


def tiled_arguments(batch: tuple[Any, ...], count: int) -> tuple[Any, ...]:
    """Repeat the tensors of shape (rows, ...) among the arguments, as `tiled` does."""
    if count == 1:
        return batch
    rows = len(batch[0])
    return tuple(
        tiled((part,), count)[0]
        if isinstance(part, Tensor) and part.dim() and len(part) == rows
        else part
        for part in batch
    )


class Oversized(Messenger):
    """Lets a plate that is sized to the data set hold more rows than it has elements."""

    def _pyro_sample(self, msg: Message[Any, Any]) -> None:
        if not site_is_subsample(msg):
            return
        fn: Any = msg["fn"]
        if (fn.subsample_size or 0) > fn.size:
            msg["value"], msg["done"] = torch.arange(fn.subsample_size) % fn.size, True
