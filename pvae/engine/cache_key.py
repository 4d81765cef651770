"""Python values that programs hold, on which what they compute may depend."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import CellType, CodeType, FunctionType

from torch import nn

from pvae.pair.discovery import namespaces

__all__ = ["Held"]

_PLAIN = frozenset({bool, int, float, str, type(None)})
_SIZED = (list, dict, set)
# Attributes that all of torch's modules have; of these only the mode decides what they compute.
_COMMON = set(vars(nn.Module())) - {"training"}


class Held:
    """Numbers, texts and sizes of containers that programs and their networks hold.

    Of an object of the user's own only those attributes count that the programs' code names.
    Calling it gives the values as they are now, which costs some microseconds.

    Args:
        programs: callables by role.
        networks: those of the programs.
    """

    def __init__(
        self, programs: Mapping[str, Callable[..., object]], networks: Sequence[nn.Module]
    ) -> None:
        met = namespaces(programs)
        parts = [part for network in networks for part in network.modules()]
        owners = {owner for *_, owner in met.spaces if owner is not None}
        named = _names(met.code, owners | {type(part) for part in parts})
        self._places: list[tuple[Mapping[str, object], str]] = []
        self._cells: list[CellType] = []
        for space, names, owner in met.spaces:
            if owner is None or not issubclass(owner, nn.Module):
                self._add(space, [n for n in names if owner is None or n in named])
        for part in parts:
            own = [name for name in vars(part) if name not in _COMMON]
            self._add(vars(part), [*own, "_modules"] if part._modules else own)
        for cell in met.cells:
            try:
                if _counts(cell.cell_contents):
                    self._cells.append(cell)
            except ValueError:  # a variable that is not bound yet
                continue

    def _add(self, space: Mapping[str, object], names: Sequence[str]) -> None:
        places = [(space, name) for name in names if name in space and _counts(space[name])]
        self._places.extend(places)

    def changed(self, before: tuple[object, ...], after: tuple[object, ...]) -> list[str]:
        """Names of values that differ between two calls; where None or a tensor is kept, none.

        That is how caches look, which are no memory of earlier steps.
        """
        names = [name for _, name in self._places] + ["a variable of a closure"] * len(self._cells)
        pairs = zip(names, before, after, strict=False)
        differ = [(n, old, new) for n, old, new in pairs if old != new]
        return list(dict.fromkeys(n for n, *both in differ if all(map(_is_value, both))))

    def __call__(self) -> tuple[object, ...]:
        """The values now; what is no plain value any more counts by its identity."""
        # Lists, as comprehensions are faster than generators: this is done in every step.
        values = [space.get(name) for space, name in self._places]
        values += [cell.cell_contents for cell in self._cells]
        return tuple([v if type(v) in _PLAIN else _seen(v) for v in values])


def _counts(value: object) -> bool:
    return type(value) in _PLAIN or isinstance(value, _SIZED)


def _seen(value: object) -> object:
    return (id(value), len(value)) if isinstance(value, _SIZED) else (id(value),)


def _is_value(seen: object) -> bool:
    return seen is not None and (not isinstance(seen, tuple) or len(seen) == 2)


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
