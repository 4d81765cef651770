"""The columns of a table: their kinds, classes and units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["KINDS", "Column", "columns_of"]

KINDS = ("real", "pos", "count", "cat", "ordinal")
Column = Mapping[str, object]
"""A column: "kind"; of numbers "loc" and "scale", of classes "classes" and "first"."""


def columns_of(
    x: npt.NDArray[np.floating], kinds: Sequence[str], classes: Sequence[int] | None = None
) -> tuple[Column, ...]:
    """Describe the columns of a table, from all of its cells that are not NaN.

    Args:
        x: the table, (rows, columns).
        kinds: of each column: "real", "pos" (0 or more), "count" (0, 1, ...), "cat" (classes) or
            "ordinal" (ordered classes).
        classes: number of classes of each column, 0 for numbers (default: as many as occur).

    Returns:
        For each column its "kind"; of numbers "loc" and "scale", the mean and standard deviation of
        x ("real"), of log(1 + x) ("pos"), or 0 and the mean ("count"); of classes their number
        "classes" and the lowest code, "first", 0 or 1.

    Raises:
        ValueError: if kinds do not fit the table; the message names the column.
    """
    if x.ndim != 2 or len(kinds) != x.shape[1]:
        raise ValueError(
            f"kind names {len(kinds)} columns, and the table has shape {x.shape}: give one kind "
            "for each column of (rows, columns)"
        )
    if classes is not None and len(classes) != len(kinds):
        raise ValueError(f"classes has {len(classes)} entries, and kind has {len(kinds)}")
    found = []
    for i, (kind, column) in enumerate(zip(kinds, x.T, strict=True)):
        if kind not in KINDS:
            raise ValueError(f"column {i} has kind {kind!r}: give one of {', '.join(KINDS)}")
        seen = column[~np.isnan(column)].astype(np.float64)
        if len(seen) == 0:
            raise ValueError(f"column {i} has no value: remove it")
        given = 0 if classes is None else int(classes[i])
        found.append(_column(i, str(kind), seen, given))
    return tuple(found)


def _column(i: int, kind: str, seen: npt.NDArray[np.float64], classes: int) -> Column:
    low, high = seen.min(), seen.max()
    whole = bool((seen == np.round(seen)).all())
    if kind in ("pos", "count") and low < 0:
        raise ValueError(f"column {i} is {kind!r} and has the value {low:g}: expected 0 or more")
    if kind in ("count", "cat", "ordinal") and not whole:
        raise ValueError(f"column {i} is {kind!r} and has values that are no whole numbers")
    if kind in ("cat", "ordinal"):
        # Codes count from 0 or from 1; with as many classes as given they can only be one of these.
        first = 0 if low == 0 or (classes and high < classes) else 1
        number = classes or max(2, int(high) - first + 1)
        if low < first or high - first >= number or (low not in (0, 1) and not classes):
            raise ValueError(
                f"column {i} is {kind!r} and has codes from {low:g} to {high:g}: number its "
                f"{classes or ''} classes 0, 1, ... or 1, 2, ...".replace("  ", " ")
            )
        return {"kind": kind, "classes": number, "first": first}
    if kind == "count":
        return {"kind": kind, "loc": 0.0, "scale": max(float(seen.mean()), 1e-3)}
    seen = np.log1p(seen) if kind == "pos" else seen
    scale = float(seen.std())
    return {"kind": kind, "loc": float(seen.mean()), "scale": scale if scale > 0 else 1.0}
