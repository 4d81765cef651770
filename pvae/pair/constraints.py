"""Constraints of parameters as plain values, which load without pickle."""

from typing import Any

from pyro.distributions import constraints
from torch.distributions.constraints import Constraint

__all__ = ["constraint_from_plain", "constraint_to_plain"]

# Bounds by which a kind of constraint is made again.
_BOUNDS = {
    "greater_than": ("lower_bound",),
    "greater_than_eq": ("lower_bound",),
    "less_than": ("upper_bound",),
    "interval": ("lower_bound", "upper_bound"),
    "half_open_interval": ("lower_bound", "upper_bound"),
}


def constraint_to_plain(constraint: Constraint) -> list[Any] | None:
    """A constraint as its name and bounds; None if it has none.

    Example:
        >>> constraint_to_plain(constraints.interval(0, 2))
        ['interval', 0, 2]
    """
    for name in constraints.__all__:
        if getattr(constraints, name) is constraint:
            return [name]
    for name, bounds in _BOUNDS.items():
        if type(constraint) is getattr(constraints, name):
            values = [getattr(constraint, bound) for bound in bounds]
            if all(isinstance(value, int | float) for value in values):
                return [name, *values]
    return None


def constraint_from_plain(plain: list[Any]) -> Constraint:
    """The constraint of which `constraint_to_plain` returned the name and bounds.

    Example:
        >>> constraint_from_plain(["interval", 0, 2])
        Interval(lower_bound=0, upper_bound=2)
    """
    name, *bounds = plain
    found: Any = getattr(constraints, name)
    constraint: Constraint = found(*bounds) if bounds else found
    return constraint
