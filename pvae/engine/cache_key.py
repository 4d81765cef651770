"""The cache key of a recording: shapes, modes, parameters, buffers and captured Python values."""

import dataclasses
import inspect
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Sized
from types import CodeType, FunctionType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pyro
import torch
from pyro.infer.autoguide import AutoGuide
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves

from pvae.pair.discovery import Space, is_library, namespaces

__all__ = ["CacheKey", "CapturedValues", "Key", "describe_arguments", "tensor_arguments"]

Key = tuple[object, ...]
_Place = tuple[int, str]

_PLAIN = frozenset({bool, int, float, complex, str, bytes, type(None)})
_CONTAINERS = (Mapping, list, tuple, set, frozenset, deque, np.ndarray)
_DEPTH = 4  # levels of nested containers that are described by value
_ITEMS, _BYTES = 64, 4096  # the largest container and array that are described by value
_BEYOND = "beyond what is described by value"
# Attributes that all of torch's modules have; of these only the mode decides what they compute.
_COMMON = set(vars(nn.Module())) - {"training"}


class CacheKey:
    """Computes the cache key of a step: steps with equal keys share a recording.

    Args:
        programs: model and guide, keyed by role.
        networks: those of the programs.
        caches: as in `CapturedValues`.
    """

    def __init__(
        self,
        programs: Mapping[str, Callable[..., object]],
        networks: Sequence[nn.Module],
        caches: Collection[_Place] = (),
    ) -> None:
        parts = [part for network in networks for part in network.modules()]
        self.captured = CapturedValues(programs, networks, caches)
        self.parameters = [p for part in parts for p in part._parameters.values() if p is not None]
        tables = [t for part in parts for t in (part._parameters, part._buffers, part._modules)]
        self.tables = [table for table in tables if table]

    def __call__(self, arguments: tuple[object, ...]) -> Key:
        """The key of a step in the present state.

        Args:
            arguments: from `describe_arguments`.
        """
        store = pyro.get_param_store()._params
        # Lists, as comprehensions are faster than generators: this runs in every step.
        return (
            arguments,
            self.captured(),
            tuple([(id(p), p.data_ptr()) for p in store.values()]),
            tuple([p.requires_grad for p in self.parameters]),
            tuple([id(item) for table in self.tables for item in table.values()]),
            torch.get_default_dtype(),
            torch._C._get_deterministic_algorithms(),
            torch._C._len_torch_function_stack(),
        )


def describe_arguments(
    args: tuple[object, ...], kwargs: Mapping[str, object]
) -> tuple[object, ...] | None:
    """The part of a key that describes the arguments; None if one of them may change unnoticed."""
    leaves = [*args, *kwargs.values()]
    structure: object = tuple(kwargs)
    if any(isinstance(leaf, _CONTAINERS) for leaf in leaves):
        leaves, structure = tree_flatten((args, dict(kwargs)))
    described = [_argument(leaf) for leaf in leaves]
    return None if None in described else (*described, structure)


def tensor_arguments(args: tuple[object, ...], kwargs: Mapping[str, object]) -> list[Tensor]:
    """The tensors among the arguments and in their containers, in a fixed order."""
    leaves = [*args, *kwargs.values()]
    if any(isinstance(leaf, _CONTAINERS) for leaf in leaves):
        leaves = tree_leaves((args, dict(kwargs)))
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def _argument(leaf: object) -> object:
    """What decides the operations on an argument; None if that is unknown."""
    if isinstance(leaf, Tensor):
        layout = leaf.stride() if leaf.layout is torch.strided else leaf.layout
        return leaf.shape, layout, leaf.dtype, leaf.device, leaf.requires_grad
    if type(leaf) in _PLAIN:
        return type(leaf), leaf
    if isinstance(leaf, type | FunctionType | np.generic):
        return leaf
    own = vars(leaf) if hasattr(leaf, "__dict__") else leaf
    described = _describe(own)
    opaque = described == id(own) or isinstance(leaf, nn.Module) or _reaches_beyond(described)
    return None if opaque else (type(leaf), id(leaf), described)


class CapturedValues:
    """The Python values that programs and their networks refer to.

    Numbers and strings count by value; dicts, lists, tuples, sets and arrays by the values in them,
    four levels deep and up to 64 items or 4,096 bytes each; tensors and other objects by identity,
    as a recording reads tensors where they are. Of a user's object those attributes count that the
    programs' code names; of a `SimpleNamespace`, a dataclass and a network all do. A call returns
    the present values and takes a few microseconds.

    Args:
        programs: callables, keyed by role.
        networks: those of the programs.
        caches: places whose objects the programs replace in each step, from `update`.

    Attributes:
        complete: whether all containers are small enough to be described by value.
    """

    def __init__(
        self,
        programs: Mapping[str, Callable[..., object]],
        networks: Sequence[nn.Module],
        caches: Collection[_Place] = (),
    ) -> None:
        found = namespaces(programs)
        parts = {id(part): part for network in networks for part in network.modules()}.values()
        owners = {type(part) for part in parts}
        owners |= {space.owner for space in found.spaces if space.owner is not None}
        named = _names(found.code, owners)
        self.caches = set(caches)
        self.complete = True
        self._places: dict[_Place, Space] = {}
        # A new attribute may hide one of the class, and a hook may change what a module returns.
        self._grow: list[Sized] = [space.all for space in found.spaces if space.all is not None]
        for part in parts:
            self._grow += [vars(part), part._forward_hooks, part._forward_pre_hooks]
        for space in found.spaces:
            if space.owner is None or not issubclass(space.owner, nn.Module):
                whole = space.owner is None or _is_data(space.owner)
                self._add(space, [name for name in space.names if whole or name in named])
        for part in parts:
            self._add(Space(vars(part).get, _attributes(part), id(part), type(part)))
        for base in {base for owner in owners for base in owner.__mro__}:
            if not is_library(base):
                values = [n for n, v in vars(base).items() if n in named and not _is_code(v)]
                self._add(Space(vars(base).get, values, id(base)))
        self._sort()

    def _add(self, space: Space, names: Sequence[str] | None = None) -> None:
        for name in space.names if names is None else names:
            self._places.setdefault((space.identity, name), space)

    def _sort(self) -> None:
        """Divide the places by their present values, since each kind has a faster way."""
        self._plain: list[tuple[Callable[[str], object], str]] = []
        self._objects: list[tuple[Callable[[str], object], str]] = []
        self._containers: list[tuple[Callable[[str], object], str, bool]] = []
        for place, space in self._places.items():
            value = space.get(place[1])
            if type(value) in _PLAIN:
                if place not in self.caches:
                    self._plain.append((space.get, place[1]))
            elif _is_constant(value) and place not in self.caches:
                self._objects.append((space.get, place[1]))
            elif isinstance(value, _CONTAINERS):
                self.complete &= not _reaches_beyond(_describe(value))
                self._containers.append((space.get, place[1], place not in self.caches))
            elif place not in self.caches and not isinstance(value, ModuleType):
                self._objects.append((space.get, place[1]))

    def __call__(self) -> tuple[object, ...]:
        """The present values."""
        # Lists, as comprehensions are faster than generators: this runs in every step.
        plain = [get(name) for get, name in self._plain]
        return (
            tuple([v if type(v) in _PLAIN else id(v) for v in plain]),
            tuple([id(get(name)) for get, name in self._objects]),
            tuple([_describe(get(name), 0, ids) for get, name, ids in self._containers]),
            tuple(map(len, self._grow)),
        )

    def snapshot(self) -> dict[_Place, tuple[object, object]]:
        """The value of each place without and with the identities of objects."""
        values = {place: space.get(place[1]) for place, space in self._places.items()}
        return {
            place: (_describe(v, 0, False), id(v) if _is_constant(v) else _describe(v))
            for place, v in values.items()
        }

    def update(self, before: Mapping[_Place, tuple[object, object]]) -> list[str]:
        """Names of values that the programs changed since a snapshot.

        An object that was replaced by another is no such value, but a cache, which remembers
        nothing of earlier steps; nor is what handlers of Pyro's note in themselves. Their places
        are added to `caches`.
        """
        changed = []
        for place, (value, identity) in self.snapshot().items():
            old, old_identity = before.get(place, (None, None))
            owner = self._places[place].owner
            of_handler = owner is not None and issubclass(owner, Messenger)
            if value != old and None not in (value, old) and not of_handler:
                changed.append(place[1])
            elif identity != old_identity and (of_handler or value == old):
                self.caches.add(place)
        return list(dict.fromkeys(changed))


def _describe(value: Any, depth: int = 0, identities: bool = True) -> object:
    """A value as part of a key; objects by their identity, or as None."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is not tuple and kind is not list and kind is not dict:  # the fast ones
        if isinstance(value, np.ndarray):
            small = value.nbytes <= _BYTES and not value.dtype.hasobject
            return value.shape, value.dtype.str, value.tobytes() if small else _BEYOND
        if isinstance(value, np.generic):
            return value
        if not isinstance(value, _CONTAINERS):
            return id(value) if identities else None
    if len(value) > _ITEMS or depth == _DEPTH:
        return len(value), _BEYOND
    if isinstance(value, set | frozenset):
        return frozenset(value)
    items = value.values() if kind is dict or isinstance(value, Mapping) else value
    inner = [v if type(v) in _PLAIN else _describe(v, depth + 1, identities) for v in items]
    return tuple(inner) if items is value else (tuple(value), tuple(inner))


def _is_constant(value: object) -> bool:
    return type(value) is tuple and all(type(item) in _PLAIN for item in value)


def _reaches_beyond(described: object) -> bool:
    return described is _BEYOND or (
        isinstance(described, tuple) and any(map(_reaches_beyond, described))
    )


def _attributes(part: nn.Module) -> list[str]:
    """The attributes of a module that decide what it computes."""
    own = [name for name in vars(part) if name not in _COMMON and not name.startswith("_pyro_")]
    if isinstance(part, AutoGuide):  # its containers are Pyro's notes about the model's plates
        own = [name for name in own if type(vars(part)[name]) in _PLAIN]
    return own


def _is_data(owner: type) -> bool:
    return issubclass(owner, SimpleNamespace | Messenger) or dataclasses.is_dataclass(owner)


def _is_code(value: object) -> bool:
    return callable(value) or hasattr(type(value), "__get__")


def _names(code: Sequence[CodeType], owners: set[type]) -> set[str]:
    """Names in the code and in the methods of these types that the code names."""
    named: set[str] = set()
    for owner in owners:
        if issubclass(owner, nn.Module):
            code = [*code, *_code_of(owner, "forward")]
    pending = list(code)
    while pending:
        one = pending.pop()
        pending += [constant for constant in one.co_consts if isinstance(constant, CodeType)]
        strings = {s for s in one.co_consts if isinstance(s, str) and s.isidentifier()}
        new = {*one.co_names, *strings} - named
        named |= new
        pending += [c for owner in owners for name in new for c in _code_of(owner, name)]
    return named


def _code_of(owner: type, name: str) -> Iterator[CodeType]:
    member = inspect.getattr_static(owner, name, None)
    if isinstance(member, property):
        member = member.fget
    elif isinstance(member, classmethod | staticmethod):
        member = member.__func__
    if isinstance(member, FunctionType):
        yield member.__code__
