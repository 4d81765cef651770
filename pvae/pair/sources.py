"""Data for programs, where these are."""

from collections.abc import Callable

from pvae.data import Rows, rows
from pvae.pair.pair import belongings_of

__all__ = ["source_for"]


def source_for(data: object, *programs: Callable[..., object]) -> Rows:
    """Whatever a user has for data, as rows on the device of the programs.

    Args:
        data: what `pvae.data.rows` takes.
        *programs: those of a `Fit` say where they are; others leave the data where they lie.
    """
    known = belongings_of(*programs)
    source = rows(data)
    return source if known is None else source.to(known.device)
