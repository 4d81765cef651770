"""A model or guide bound to the parameter-store scope of its pair."""

import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Protocol

import pyro
from torch import nn

from pvae.pair.missing import filled, marginalized

__all__ = ["Program", "names_index"]


class _Pair(Protocol):
    """What a program needs of its pair."""

    networks: dict[str, nn.Module]
    unregistered: dict[str, dict[str, nn.Parameter]]
    missing: bool
    index_at: int | None

    def scope(self) -> AbstractContextManager[None]: ...


def names_index(program: Callable[..., object], count: int) -> bool:
    """Whether a program asks for the numbers of a batch's rows, by an argument `index`.

    Args:
        program: the callable as the user wrote it.
        count: number of arguments of a batch, which may hold an `index` of the user's own.
    """
    called = program.forward if isinstance(program, nn.Module) else program
    try:
        parameters = inspect.signature(called).parameters
    except (TypeError, ValueError):
        return False
    if "index" not in parameters:
        return False
    by_name = parameters["index"].kind is inspect.Parameter.KEYWORD_ONLY
    return by_name or list(parameters).index("index") >= count


class Program:
    """A model or a guide in the parameter-store scope of its pair; called like the original.

    Attributes and methods of the user's object are reached through it.

    Args:
        fn: the callable as the user wrote it.
        pair: the pair that it belongs to.
        role: "model" or "guide".

    Example:
        >>> import pvae, torch
        >>> vae = pvae.models.VAE(x_shape=(8, 8), z_dim=2)
        >>> fit = pvae.fit(vae, pvae.guides.MeanField(x_shape=(8, 8), z_dim=2),
        ...                torch.rand(16, 8, 8).round(), epochs=1, progress=False)
        >>> fit.model.z_dim
        2
    """

    def __init__(self, fn: Callable[..., object], pair: _Pair, role: str) -> None:
        self.fn = fn
        self.pair = pair
        self.role = role

    def __call__(self, *args: object, **kwargs: object) -> object:
        """Run the program in its scope."""
        with self.pair.scope():
            unregistered: Mapping[str, nn.Parameter] = self.pair.unregistered.get(self.role, {})
            for name, parameter in unregistered.items():
                pyro.param(name, parameter)
            fn = self.fn
            if self.pair.missing:
                fn = marginalized(fn) if self.role == "model" else filled(fn)
            at = self.pair.index_at
            if at is not None and len(args) > at:  # the numbers of the rows come last
                if names_index(self.fn, at):
                    kwargs = {**kwargs, "index": args[at]}
                args = args[:at]
            return fn(*args, **kwargs)

    def __getattr__(self, name: str) -> object:
        """An attribute of the user's object."""
        if name.startswith("__") or "fn" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.fn, name)

    def __repr__(self) -> str:
        return f"Program({self.role}: {self.fn!r})"
