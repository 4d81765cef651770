"""Particles as further rows of a batch."""

from typing import Any

from torch import Tensor

__all__ = ["tiled", "tiled_arguments"]


def tiled(batch: tuple[Tensor, ...], count: int) -> tuple[Tensor, ...]:
    """The batch with each row so many times: all rows, then all rows again."""
    return tuple(part.repeat(count, *(1,) * (part.dim() - 1)) for part in batch)


def tiled_arguments(batch: tuple[Any, ...], count: int) -> tuple[Any, ...]:
    """The same of arguments among which are numbers and texts."""
    if count == 1:
        return batch
    rows = len(batch[0])
    return tuple(
        tiled((part,), count)[0]
        if isinstance(part, Tensor) and part.dim() and len(part) == rows
        else part
        for part in batch
    )
