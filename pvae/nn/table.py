"""The columns of a table as features of a network."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

__all__ = ["TableFeatures"]


class TableFeatures(nn.Module):
    """Standardized numbers, one-hot classes, ordered classes as thresholds, and what is missing.

    Args:
        columns: of the table, as of `likelihoods.Mixed`.

    Attributes:
        out_features: number of features.

    Example:
        >>> features = TableFeatures(["real", {"kind": "cat", "classes": 3}])
        >>> features(torch.tensor([[0.5, 2.0]]), torch.tensor([[True, False]]))
        tensor([[0., 0., 0., 1., 1., 0.]])
    """

    def __init__(self, columns: Sequence[str | Mapping[str, object]]) -> None:
        super().__init__()
        self.columns = [dict(c) if isinstance(c, Mapping) else {"kind": c} for c in columns]
        sizes = [int(str(column.get("classes", 1))) for column in self.columns]
        self.out_features = sum(sizes) + len(sizes)

    def forward(self, x: Tensor, missing: Tensor | None = None) -> Tensor:
        """Map `(batch, columns)`, and where it is missing, to `(batch, out_features)`."""
        if missing is None:
            missing = torch.zeros_like(x, dtype=torch.bool)
        parts = []
        for i, column in enumerate(self.columns):
            part = _features(column, x[:, i])
            parts.append(part.masked_fill(missing[:, i, None], 0))
        return torch.cat([*parts, missing.to(x)], -1)


def _features(column: Mapping[str, object], x: Tensor) -> Tensor:
    kind = column["kind"]
    if kind in ("cat", "ordinal"):
        classes, first = int(str(column["classes"])), int(str(column.get("first", 0)))
        numbers = torch.arange(first, first + classes, device=x.device)
        x = x[:, None]
        return (x == numbers if kind == "cat" else x >= numbers).float()
    loc, scale = (float(str(column.get(name, of))) for name, of in (("loc", 0), ("scale", 1)))
    if kind == "pos":
        x = x.clamp(min=0).log1p()
    elif kind == "count":
        x, loc, scale = (x.clamp(min=0) / scale).log1p(), 0.7, 0.5  # near 0 and 1 at the mean
    return ((x - loc) / scale)[:, None]
