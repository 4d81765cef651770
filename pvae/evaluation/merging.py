"""One estimate from those of several parts of the data."""

import math
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from pvae.evaluation.estimate import Estimate

__all__ = ["merged"]

E = TypeVar("E", bound=Estimate)


def merged(parts: Sequence[E], rows: Sequence[Tensor]) -> E:
    """The estimate on all data, from estimates on parts of it.

    Means are weighted by the number of rows; Monte Carlo errors are those of independent draws.

    Args:
        parts: of one kind.
        rows: the row numbers of each part, int64, without a row in two of them.

    Example:
        >>> parts = [Estimate(m, 0.0, 0.1, 5, torch.tensor([m])) for m in (1.0, 3.0)]
        >>> whole = merged(parts, [torch.tensor([1]), torch.tensor([0])])
        >>> whole.mean, whole.per_datum, round(whole.mc_error, 3)
        (2.0, tensor([3., 1.]), 0.071)
    """
    sizes = [len(numbers) for numbers in rows]
    order = torch.cat(list(rows)).argsort()

    def mean(values: Sequence[float]) -> float:
        return sum(s * v for s, v in zip(sizes, values, strict=True)) / sum(sizes)

    found: dict[str, Any] = {}
    for name in (field.name for field in fields(parts[0])):
        values = [getattr(part, name) for part in parts]
        if isinstance(values[0], Tensor):
            found[name] = torch.cat(values)[order]
        elif isinstance(values[0], dict):
            found[name] = {key: mean([value[key] for value in values]) for key in values[0]}
        elif isinstance(values[0], float):
            found[name] = mean(values)
    _, found["std_error"] = Estimate.over_data(found["per_datum"])
    squares = [(s * part.mc_error) ** 2 for s, part in zip(sizes, parts, strict=True)]
    found["mc_error"] = math.sqrt(sum(squares)) / sum(sizes)
    return replace(parts[0], **found)
