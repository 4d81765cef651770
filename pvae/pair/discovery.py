"""Networks and tensors that callables reach."""

import dis
import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, TypeVar

from pyro.poutine.messenger import Messenger
from torch import nn

__all__ = ["Namespaces", "Space", "is_library", "namespaces", "reach"]

T = TypeVar("T")

# Objects of these packages are leaves: their attributes are not the user's.
_FOREIGN = {"torch", "pyro", "numpy", "builtins", "functools", "collections", "scipy", "sklearn"}
_DEPTH = 8
# Attributes that all of torch's modules have; their parts are among these.
_COMMON = frozenset(vars(nn.Module()))
_HOLDERS = (nn.Module, Mapping, list, tuple)


def reach(programs: Mapping[str, Callable[..., object]], kind: type[T]) -> list[tuple[str, T]]:
    """Objects of a type that programs reach, each with the name under which it is found first.

    The search covers the callables and their `__self__`, closures, the globals that their code
    names and default arguments, and from these on containers, partials, functions, attributes of
    the user's objects, and networks that a network refers to without registering them as modules.

    Args:
        programs: callables, keyed by role; the role is the name of the callable or its `__self__`.
        kind: the type to look for, such as `torch.nn.Module`.
    """
    return list(_Walk(kind).programs(programs))


@dataclass
class Space:
    """Names from which programs read values.

    Attributes:
        get: from a name to its present value; None if there is none.
        names: the names.
        identity: of the object that holds them, which stays the same between two searches.
        owner: the type of the user's object whose attributes they are; None for all others:
            globals, variables of closures, default arguments.
        all: all attributes of that object.
    """

    get: Callable[[str], object]
    names: list[str]
    identity: int
    owner: type | None = None
    all: Mapping[str, object] | None = None


@dataclass
class Namespaces:
    """The namespaces from which programs read values, and the code of their functions."""

    spaces: list[Space] = field(default_factory=list)
    code: list[CodeType] = field(default_factory=list)


def namespaces(programs: Mapping[str, Callable[..., object]]) -> Namespaces:
    """The namespaces that programs reach.

    Args:
        programs: callables by role.
    """
    walk = _Walk(_Nothing)
    for _ in walk.programs(programs):
        pass
    return walk.found


class _Nothing:
    """A type without objects, for a search that collects namespaces alone."""


class _Walk:
    """One search; every object is visited once."""

    def __init__(self, kind: type[T]) -> None:
        self.kind = kind
        self.seen: set[int] = set()
        self.found = Namespaces()

    def programs(self, programs: Mapping[str, Callable[..., object]]) -> Iterator[tuple[str, T]]:
        for role, program in programs.items():
            owner = program.__self__ if isinstance(program, MethodType) else program
            if isinstance(owner, self.kind):
                yield from self.unseen(role, owner)
                yield from self.beside(role, owner, 0)
            if not isinstance(owner, FunctionType):
                yield from self.attributes("" if owner is program else role, owner, 0)
            yield from self.function(_code_of(program), 0)

    def unseen(self, name: str, value: object) -> Iterator[tuple[str, T]]:
        if id(value) not in self.seen:
            self.seen.add(id(value))
            yield name, value  # type: ignore[misc]

    def visit(self, name: str, value: object, depth: int) -> Iterator[tuple[str, T]]:
        if id(value) in self.seen or depth > _DEPTH:
            return
        if isinstance(value, self.kind):
            yield from self.unseen(name, value)
            yield from self.beside(name, value, depth)
            return
        self.seen.add(id(value))
        if isinstance(value, MethodType):
            yield from self.visit(name, value.__self__, depth + 1)
            yield from self.function(value.__func__, depth + 1)
        elif isinstance(value, FunctionType):
            yield from self.function(value, depth + 1)
        elif isinstance(value, functools.partial):
            yield from self.visit(name, value.func, depth)
            yield from self.fixed(name, dict(enumerate(value.args)) | value.keywords, value, depth)
        elif isinstance(value, Mapping):
            for key, item in list(value.items()):
                yield from self.visit(f"{name}.{key}", item, depth + 1)
        elif isinstance(value, list | tuple | set | frozenset):
            for index, item in enumerate(value):
                yield from self.visit(f"{name}.{index}", item, depth + 1)
        elif not isinstance(value, type | ModuleType):
            yield from self.attributes(name, value, depth)
            if callable(value) and not _is_foreign(type(value)):
                yield from self.function(_code_of(value), depth + 1)

    def attributes(self, name: str, value: object, depth: int) -> Iterator[tuple[str, T]]:
        """The attributes of a user's object; modules of a network belong to it already."""
        kind = type(value)
        if isinstance(value, nn.Module) or (_is_foreign(kind) and not isinstance(value, Messenger)):
            return
        slots = [slot for base in kind.__mro__ for slot in _slots(base)]
        keys = [*getattr(value, "__dict__", {}), *slots]
        own = getattr(value, "__dict__", None)
        space = Space(lambda key: getattr(value, key, None), keys, id(value), kind, own)
        if not slots and hasattr(value, "__dict__"):
            space.get = value.__dict__.get
        self.found.spaces.append(space)
        for key in keys:
            item = space.get(key)
            yield from self.visit(f"{name}.{key}" if name else key, item, depth + 1)

    def fixed(
        self, name: str, values: Mapping[Any, object], owner: object, depth: int
    ) -> Iterator[tuple[str, T]]:
        """Values that a function is called with: defaults, or the arguments of a partial."""
        self.found.spaces.append(Space(values.get, list(values), id(owner)))
        yield from self.visit(name, values, depth)

    def beside(self, name: str, value: object, depth: int) -> Iterator[tuple[str, T]]:
        """Networks that a network refers to, alone or in containers, without registering them."""
        if not isinstance(value, nn.Module):
            return
        self.seen.update(id(part) for part in value.modules())
        for part in value.modules():
            for key, item in list(vars(part).items()):
                if key not in _COMMON and isinstance(item, _HOLDERS):
                    yield from self.visit(f"{name}.{key}", item, depth + 1)

    def function(self, function: object, depth: int) -> Iterator[tuple[str, T]]:
        """The closure, named globals, defaults and the wrapped function of a function."""
        if isinstance(function, functools.partial):
            yield from self.visit("partial", function, depth)
            return
        if not isinstance(function, FunctionType) or _is_foreign(function):
            return
        code = function.__code__
        self.found.code.append(code)
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=False):
            space = Space(functools.partial(_content, cell), [name], id(cell))
            self.found.spaces.append(space)
            yield from self.visit(name, space.get(name), depth + 1)
        named = list(_globals_named(code))
        own = function.__globals__
        self.found.spaces.append(Space(own.get, named, id(own)))
        for name in named:
            value = own.get(name)
            if isinstance(value, ModuleType | type) and not is_library(value):
                attributes = [key for key in code.co_names if key in vars(value)]
                self.found.spaces.append(Space(vars(value).get, attributes, id(value)))
                for key in attributes:
                    yield from self.visit(f"{name}.{key}", vars(value)[key], depth + 1)
            else:
                yield from self.visit(name, value, depth + 1)
        last = code.co_varnames[: code.co_argcount][-len(function.__defaults__ or ()) :]
        defaults = dict(zip(last, function.__defaults__ or (), strict=False))
        yield from self.fixed(
            "default", defaults | (function.__kwdefaults__ or {}), code, depth + 1
        )
        wrapped = getattr(function, "__wrapped__", None)
        if wrapped is not None:
            yield from self.visit("wrapped", wrapped, depth + 1)


def _code_of(program: object) -> object:
    """The function that runs when the object is called."""
    if isinstance(program, MethodType):
        return program.__func__
    if isinstance(program, FunctionType | functools.partial):
        return program
    if isinstance(program, nn.Module):
        return type(program).forward
    return vars(type(program)).get("__call__")


def _globals_named(code: CodeType) -> Iterator[str]:
    """Names that the code, or code nested in it, loads from its globals."""
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield str(instruction.argval)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _globals_named(constant)


def _slots(kind: type) -> Sequence[str]:
    slots = vars(kind).get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _content(cell: CellType, name: str) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # a variable that is not bound yet
        return None


def _is_foreign(thing: type | FunctionType) -> bool:
    return (thing.__module__ or "").partition(".")[0] in _FOREIGN


def is_library(thing: type | ModuleType) -> bool:
    """Whether a module or class is not the user's."""
    name = thing.__name__ if isinstance(thing, ModuleType) else thing.__module__
    top = (name or "").partition(".")[0]
    return top in _FOREIGN or top in sys.stdlib_module_names or top == "pvae"
