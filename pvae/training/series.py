"""Numbers of many steps in one tensor."""

from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["Series"]


class Series:
    """Numbers that are appended one by one, on their device, without reading it.

    They lie in one tensor, which doubles when it is full. Tensors that are kept one by one, between
    the large ones of a step, would take up the places of those, so that memory grows by one batch
    in each step.

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

    def __len__(self) -> int:
        return self._length

    @property
    def values(self) -> Tensor:
        """All numbers, shape (n,)."""
        return self._values[: self._length]

    def append(self, value: Tensor) -> None:
        """Append a number, shape ()."""
        if self._length == len(self._values):
            grown = value.new_zeros(max(1024, 2 * self._length))
            grown[: self._length] = self.values
            self._values = grown
        self._values[self._length] = value
        self._length += 1

    def extend(self, values: Iterable[Tensor]) -> None:
        """Append several."""
        for value in values:
            self.append(value)
