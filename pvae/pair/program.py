"""Programs in the parameter scope of their pair."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pyro

if TYPE_CHECKING:
    from pvae.pair.pair import Belongings

__all__ = ["Program"]


class Program:
    """A model or a guide in the parameter scope that belongs to it; called like the original.

    Args:
        fn: the callable as the user wrote it.
        belongings: the networks and parameters of its pair.
        role: "model" or "guide".
    """

    def __init__(self, fn: Callable[..., object], belongings: Belongings, role: str) -> None:
        self.fn = fn
        self.belongings = belongings
        self.role = role

    def __call__(self, *args: object, **kwargs: object) -> object:
        """Run the program in its scope."""
        with self.belongings.scope():
            for name, parameter in self.belongings.unregistered.get(self.role, {}).items():
                pyro.param(name, parameter)
            return self.fn(*args, **kwargs)

    def __repr__(self) -> str:
        return f"Program({self.role}: {self.fn!r})"
