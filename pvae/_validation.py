"""Checks of arguments that many functions have: unknown names, and numbers out of range."""

import difflib
from collections.abc import Collection, Iterable
from numbers import Integral

__all__ = ["at_least", "nearest", "positive", "sizes", "whole"]


def at_least(least: float, **numbers: float | None) -> None:
    """Check that numbers are not below a minimum.

    Args:
        least: the minimum.
        **numbers: by name; None passes.

    Raises:
        ValueError: if a number is below the minimum, NaN or no number.

    Example:
        >>> at_least(1, num_particles=5, max_bytes=None)
        >>> at_least(1, num_particles=0)
        Traceback (most recent call last):
        ValueError: num_particles is 0: give at least 1
    """
    for name, number in numbers.items():
        if number is not None and (isinstance(number, str) or not number >= least):
            raise ValueError(f"{name} is {number}: give at least {least}")


def positive(**numbers: float | None) -> None:
    """Check that numbers are above 0.

    Args:
        **numbers: by name; None passes.

    Raises:
        ValueError: if a number is 0, negative, NaN or no number.
    """
    for name, number in numbers.items():
        if number is not None and (isinstance(number, str) or not number > 0):
            raise ValueError(f"{name} is {number}: give a number above 0")


def sizes(value: object) -> tuple[int, ...]:
    """Check the shape of one datum, and return it as a tuple.

    Args:
        value: one or more whole numbers of at least 1.

    Raises:
        ValueError: if it is anything else.

    Example:
        >>> sizes([28, 28])
        (28, 28)
        >>> sizes(784)
        Traceback (most recent call last):
        ValueError: x_shape is 784; expected one or more sizes of at least 1, such as (784,)
    """
    found = tuple(value) if isinstance(value, Iterable) else ()
    if not found or not all(isinstance(size, Integral) and int(size) >= 1 for size in found):
        if isinstance(value, Integral):
            such = f", such as ({value},)"
        else:
            such = "" if found else ", such as (28, 28): data of N single numbers are (N, 1)"
        raise ValueError(f"x_shape is {value}; expected one or more sizes of at least 1{such}")
    return tuple(int(size) for size in found)


def whole(least: int, **numbers: object) -> None:
    """Check that numbers are whole, and not below a minimum.

    Args:
        least: the minimum.
        **numbers: by name; None passes.

    Raises:
        ValueError: if a number is not whole, or below the minimum.

    Example:
        >>> whole(1, epochs=2, patience=None)
        >>> whole(1, epochs=1.5)
        Traceback (most recent call last):
        ValueError: epochs is 1.5: give a whole number, at least 1
    """
    for name, number in numbers.items():
        if number is not None and not isinstance(number, Integral):
            raise ValueError(f"{name} is {number!r}: give a whole number, at least {least}")
        at_least(least, **{name: None if number is None else int(number)})


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
