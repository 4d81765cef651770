"""Numbers of many steps in one tensor."""

from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["Series"]

_AT_ONCE = 16


class Series:
    """Numbers that are appended one by one, on their device, without reading it.

    They lie in one tensor, which doubles when it is full. Tensors that are kept one by one, between
    the large ones of a step, would take up the places of those, so that memory grows by one batch
    in each step; a few are, since it is faster to copy several at once.

    Args:
        values: the first numbers, shape (n,).

    Example:
        >>> losses = Series()
        >>> for step in range(3):
        ...     losses.append(torch.tensor(float(step)))
        >>> len(losses), losses.values
        (3, tensor([0., 1., 2.]))
    """

    def __init__(self, values: Tensor | None = None) -> None:
        self._length = 0 if values is None else len(values)
        self._values = torch.zeros(0) if values is None else values.clone()
        self._last: list[Tensor] = []  # those that are not copied yet

    def __len__(self) -> int:
        return self._length + len(self._last)

    @property
    def values(self) -> Tensor:
        """All numbers, shape (n,)."""
        self._copy()
        return self._values[: self._length]

    def append(self, value: Tensor) -> None:
        """Append a number, shape ()."""
        self._last.append(value)
        if len(self._last) == _AT_ONCE:
            self._copy()

    def extend(self, values: Tensor | Iterable[Tensor]) -> None:
        """Append several: tensors of shape (), or one of shape (n,)."""
        if isinstance(values, Tensor):
            self._copy()
            self._put(values)
            return
        for value in values:
            self.append(value)

    def _copy(self) -> None:
        if self._last:
            new, self._last = torch.stack(self._last), []
            self._put(new)

    def _put(self, new: Tensor) -> None:
        end = self._length + len(new)
        if end > len(self._values):
            grown = new.new_zeros(max(1024, 2 * end))
            grown[: self._length] = self._values[: self._length]
            self._values = grown
        self._values[self._length : end] = new
        self._length = end
