"""The cache key of a recording: shapes, modes, parameters, buffers and captured Python values."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import CellType, CodeType, FunctionType

import pyro
from torch import Tensor, nn

from pvae.pair.discovery import namespaces

__all__ = ["CacheKey", "CapturedValues", "Key", "describe_arguments"]

Key = tuple[tuple[object, ...], ...]

_PLAIN = frozenset({bool, int, float, str, type(None)})
_SIZED = (list, dict, set)
# Attributes that all of torch's modules have; of these only the mode decides what they compute.
_COMMON = set(vars(nn.Module())) - {"training"}


class CacheKey:
    """Computes the cache key of a step: steps with equal keys share a recording.

    Args:
        programs: model and guide, by role.
        networks: those of the programs.
    """

    def __init__(
        self, programs: Mapping[str, Callable[..., object]], networks: Sequence[nn.Module]
    ) -> None:
        parts = [part for network in networks for part in network.modules()]
        self.captured = CapturedValues(programs, networks)
        self.parameters = [p for part in parts for p in part._parameters.values() if p is not None]
        self.buffer_tables = [part._buffers for part in parts if part._buffers]

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
            tuple([id(b) for table in self.buffer_tables for b in table.values()]),
        )


def describe_arguments(
    args: tuple[object, ...], kwargs: Mapping[str, object]
) -> tuple[object, ...] | None:
    """The part of a key that describes the arguments; None if one of them may change unnoticed."""
    described = [_describe(leaf) for leaf in (*args, *kwargs.values())]
    return None if None in described else (*described, *kwargs)


def _describe(leaf: object) -> object:
    """What decides the operations on an argument; None if that is unknown."""
    if isinstance(leaf, Tensor):
        return leaf.shape, leaf.dtype, leaf.device, leaf.requires_grad
    if isinstance(leaf, bool | int | float | str | type(None)):
        return type(leaf), leaf
    return None


class CapturedValues:
    """The numbers, strings and container sizes that programs and their networks refer to.

    Of a user's own object only the attributes that the programs' code names count. A call returns
    the present values and takes a few microseconds.

    Args:
        programs: callables by role.
        networks: those of the programs.
    """

    def __init__(
        self, programs: Mapping[str, Callable[..., object]], networks: Sequence[nn.Module]
    ) -> None:
        found = namespaces(programs)
        parts = [part for network in networks for part in network.modules()]
        owners = {owner for *_, owner in found.spaces if owner is not None}
        named = _names(found.code, owners | {type(part) for part in parts})
        self._places: list[tuple[Mapping[str, object], str]] = []
        self._cells: list[CellType] = []
        for space, names, owner in found.spaces:
            if owner is None or not issubclass(owner, nn.Module):
                self._add(space, [n for n in names if owner is None or n in named])
        for part in parts:
            own = [name for name in vars(part) if name not in _COMMON]
            self._add(vars(part), [*own, "_modules"] if part._modules else own)
        for cell in found.cells:
            try:
                if _counts(cell.cell_contents):
                    self._cells.append(cell)
            except ValueError:  # a variable that is not bound yet
                continue

    def _add(self, space: Mapping[str, object], names: Sequence[str]) -> None:
        places = [(space, name) for name in names if name in space and _counts(space[name])]
        self._places.extend(places)

    def changed(self, before: tuple[object, ...], after: tuple[object, ...]) -> list[str]:
        """Names of values that differ between two calls.

        A value that was or becomes None or a tensor is not counted: so do caches behave, which
        remember nothing of earlier steps.
        """
        names = [name for _, name in self._places] + ["a variable of a closure"] * len(self._cells)
        pairs = zip(names, before, after, strict=False)
        differ = [(n, old, new) for n, old, new in pairs if old != new]
        return list(dict.fromkeys(n for n, *both in differ if all(map(_is_value, both))))

    def __call__(self) -> tuple[object, ...]:
        """The present values; objects that are not plain values count by their identity."""
        # Lists, as comprehensions are faster than generators: this runs in every step.
        values = [space.get(name) for space, name in self._places]
        values += [cell.cell_contents for cell in self._cells]
        return tuple([v if type(v) in _PLAIN else _identity(v) for v in values])


def _counts(value: object) -> bool:
    return type(value) in _PLAIN or isinstance(value, _SIZED)


def _identity(value: object) -> object:
    return (id(value), len(value)) if isinstance(value, _SIZED) else (id(value),)


def _is_value(key: object) -> bool:
    return key is not None and (not isinstance(key, tuple) or len(key) == 2)


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
        new = set(one.co_names) - named
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
