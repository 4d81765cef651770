"""Checks of arguments that many functions share: unknown names, and numbers out of range."""

import difflib
from collections.abc import Collection

__all__ = ["at_least", "nearest", "positive"]


def at_least(least: float, **numbers: float | None) -> None:
    """Check that numbers are not below a minimum.

    Args:
        least: the minimum.
        **numbers: by name; None passes.

    Raises:
        ValueError: if a number is below the minimum, or NaN.

    Example:
        >>> at_least(1, num_particles=5, max_bytes=None)
        >>> at_least(1, num_particles=0)
        Traceback (most recent call last):
        ValueError: num_particles is 0: give at least 1
    """
    for name, number in numbers.items():
        if number is not None and not number >= least:
            raise ValueError(f"{name} is {number}: give at least {least}")


def positive(**numbers: float | None) -> None:
    """Check that numbers are above 0.

    Args:
        **numbers: by name; None passes.

    Raises:
        ValueError: if a number is 0, negative or NaN.
    """
    for name, number in numbers.items():
        if number is not None and not number > 0:
            raise ValueError(f"{name} is {number}: give a number above 0")


def nearest(name: str, known: Collection[str]) -> str:
    """Describe what could have been meant by an unknown name.

    Args:
        name: what was given.
        known: the names that exist.

    Example:
        >>> nearest("iwea", ["elbo", "iwae"])
        "nearest: 'iwae'; there are elbo, iwae"
    """
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    said = f"nearest: {', '.join(map(repr, near))}; " if near else ""
    return f"{said}there are {', '.join(known) or 'none'}"
