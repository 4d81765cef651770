"""The splits of a data set, and any kind of data as rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, from_numpy
from torch.utils.data import TensorDataset

from pvae.data.columns import Column
from pvae.data.table import Rows

__all__ = ["Splits", "rows", "tensor_of"]


@dataclass(frozen=True)
class Splits:
    """The splits of a named data set or a file; training uses one of them.

    Attributes:
        name: name of the data set.
        train: the training rows.
        valid: the validation rows, or None.
        test: the test rows, or None.
        columns: of a table, the description of each column: its "kind", and what goes with it.

    Example:
        >>> import pvae
        >>> digits = pvae.data.load("digits")
        >>> len(digits.train), len(digits.valid), len(digits.test), digits.x_shape, digits.levels
        (1444, 177, 176, (8, 8), 17)
    """

    name: str
    train: Rows
    valid: Rows | None
    test: Rows | None
    columns: tuple[Column, ...] | None = None

    @property
    def levels(self) -> int | None:
        """Number of grey levels, as in `Rows`."""
        return self.train.levels

    @property
    def x_shape(self) -> tuple[int, ...]:
        """Shape of one row of x."""
        return self.train.x_shape

    @property
    def binarize(self) -> str:
        """Binarization of the training rows; held-out rows of "dynamic" are drawn once."""
        return self.train.binarize


def rows(data: object, *, levels: int | None = None, missing: Tensor | str | None = None) -> Rows:
    """Turn data into `Rows`.

    Args:
        data: `Rows`; a tensor or an array (N, *x_shape); a tuple or a list of them, each an
            argument of the programs; or a `TensorDataset`.
        levels: number of grey levels of x if it is of uint8, as in `Rows`; `Rows` keep theirs.
        missing: what is missing of x, as in `Rows`, which keep theirs.

    Raises:
        TypeError: if the data are anything else, such as `Splits`, which have several sets of rows.
        ValueError: as for `Rows`.

    Example:
        >>> import torch
        >>> rows((torch.zeros(5, 3), torch.ones(5))).first(2)[1]
        tensor([1., 1.])
    """
    if isinstance(data, Rows):
        if missing is not None and data.missing is None:
            raise ValueError("the data are Rows that say what is missing: give it to Rows(...)")
        return data
    if isinstance(data, Splits):
        raise TypeError(
            f"data is the data set {data.name!r} with its splits: "
            "give one split: data.train, .valid or .test"
        )
    if isinstance(data, TensorDataset):
        data = data.tensors
    if isinstance(data, Tensor | np.ndarray):
        data = (data,)
    if not isinstance(data, tuple | list) or not data:
        raise TypeError(
            f"data is {_kind(data)}: expected a tensor, an array, a tuple of them, Rows or a "
            "TensorDataset (of a named set or a file: pvae.data.load(name).train)"
        )
    for i, argument in enumerate(data):
        if not isinstance(argument, Tensor | np.ndarray):
            raise TypeError(
                f"item {i} of data is {_kind(argument)}: expected a tensor or an array (N, ...), "
                "one for each argument of the programs"
            )
    tensors = [tensor_of(a) if isinstance(a, np.ndarray) else a for a in data]
    of_grey = levels if tensors[0].dtype == torch.uint8 else None
    return Rows(*tensors, levels=of_grey, missing=missing)


def tensor_of(array: npt.NDArray[np.generic]) -> Tensor:
    """The array as a tensor, copied only if torch cannot share its memory."""
    if array.dtype.kind not in "buif":
        raise TypeError(f"an array of {array.dtype} cannot be data: give bool, integers or floats")
    dtype = array.dtype.newbyteorder("=")
    if dtype.kind == "u" and dtype.itemsize > 1:
        dtype = np.dtype(np.int64)  # torch hardly supports wide unsigned integers
    return from_numpy(np.require(array, dtype, ["C", "W"]))


def _kind(value: object) -> str:
    empty = isinstance(value, tuple | list) and not value
    return f"an empty {type(value).__name__}" if empty else f"of type {type(value).__qualname__}"
