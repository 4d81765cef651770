"""Bounds and their gradient estimators: each a `pyro.infer.ELBO`, named as in its paper."""

import difflib
import inspect

import pyro.infer
from pyro.infer import ELBO

__all__ = ["get", "names"]


def _named() -> dict[str, type[ELBO]]:
    """Pyro's objectives under their own names, and the usual one under its short one."""
    # The Jit variants rest on TorchScript, which torch has deprecated.
    own = {
        name: value
        for name, value in vars(pyro.infer).items()
        if inspect.isclass(value) and issubclass(value, ELBO) and value is not ELBO
        if not name.startswith("Jit")
    }
    return {"elbo": pyro.infer.Trace_ELBO, **own}


names: tuple[str, ...] = tuple(_named())
"""The names that `get` knows."""


def get(name: str, **options: object) -> ELBO:
    """Build an objective by name.

    Args:
        name: one of `names`: "elbo" is `pyro.infer.Trace_ELBO`.
        **options: of its constructor, such as `num_particles`.

    Returns:
        The objective.

    Raises:
        ValueError: at an unknown name or option.

    Example:
        >>> get("elbo", num_particles=5).num_particles
        5
    """
    if name not in names:
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
        nearest = f"nearest: {', '.join(map(repr, near))}; " if near else ""
        raise ValueError(f"unknown objective {name!r}; {nearest}there are {', '.join(names)}")
    cls = _named()[name]
    try:
        return cls(**options)
    except TypeError as error:
        known = sorted({*inspect.signature(ELBO).parameters, *inspect.signature(cls).parameters})
        raise ValueError(f"objective {name!r}: {error}; its options are {known}") from error
