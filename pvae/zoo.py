"""From a name to a program: "vae", "my.py:Mine", "package.module:Mine", "my.py:Class.method"."""

import ast
import hashlib
import importlib
import importlib.util
import inspect
import json
import pkgutil
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

from torch import nn

from pvae._validation import nearest
from pvae.sources import Source, source_in

__all__ = [
    "Built",
    "Entry",
    "build",
    "entries",
    "parse_options",
    "usual",
]


@dataclass(frozen=True)
class Entry:
    """A member of the zoo.

    Attributes:
        name: in the zoo.
        cls: its class.
        summary: the first line of its docstring.
        options: names of constructor arguments with their defaults.
        usual: of a model, what it is trained with unless the command line says otherwise, as in the
            section "Defaults" of its docstring: "guide", "data", and options of `pvae train`.
    """

    name: str
    cls: type
    summary: str
    options: tuple[tuple[str, object], ...]
    usual: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Built:
    """A pair with everything that is needed to build it again."""

    model: Callable[..., object]
    guide: Callable[..., object]
    options: Mapping[str, object]
    defaults: Mapping[str, object]
    sources: Mapping[str, Source]

    def as_json(self) -> dict[str, object]:
        """The arguments of `build` that build the pair again, and the present sources."""
        texts = {
            role: f"{source.file}:{name}" if place.endswith(".py") else source.text
            for role, source in self.sources.items()
            for place, _, name in [source.text.rpartition(":")]
        }
        sources = {role: asdict(source) for role, source in self.sources.items()}
        known = {"options": dict(self.options), "defaults": dict(self.defaults)}
        return {**texts, **known, "sources": sources}


def build(
    model: str,
    guide: str,
    options: Mapping[str, object] | None = None,
    defaults: Mapping[str, object] | None = None,
) -> Built:
    """Find two programs, and construct those that are classes.

    Functions and instances are programs; classes are constructed. "Class.method" constructs the
    class once for both programs. A guide whose constructor names `model` receives the model; a part
    of the model that has `join_guide`, as a VampPrior, is given the guide.

    Args:
        model: the text of the model.
        guide: the text of the guide.
        options: arguments for every constructor that names them.
        defaults: arguments for constructors that name them, unless the options set them.

    Raises:
        ValueError: if there is nothing of that name, or the options do not fit the constructors.

    Example:
        >>> built = build("vae", "mean_field", {"z_dim": 2}, {"x_shape": (8, 8)})
        >>> built.model.z_dim
        2
    """
    options, defaults = dict(options or {}), dict(defaults or {})
    found = {role: _find(text, role) for role, text in (("model", model), ("guide", guide))}
    _refuse_unknown(options, {role: maker for role, (_, maker, _) in found.items()})
    # One instance if a method is named, since two would have separate networks.
    one_instance = any(method for _, _, method in found.values())
    instances: dict[type, object] = {}
    programs: dict[str, Callable[..., object]] = {}
    for role, (source, maker, method) in found.items():
        program: object = maker
        if inspect.isclass(maker):
            if not (one_instance and maker in instances):
                # `programs` contains the model when a guide is constructed.
                instances[maker] = _construct(maker, source.text, defaults | options | programs)
            program = instances[maker]
        programs[role] = _program(program, method, role, source.text)
    _join(programs)
    sources = {role: source for role, (source, _, _) in found.items()}
    return Built(programs["model"], programs["guide"], options, defaults, sources)


def _join(programs: Mapping[str, Callable[..., object]]) -> None:
    """Let parts of a model that share networks with the guide, as a VampPrior, find them."""
    model, guide = programs["model"], programs["guide"]
    if isinstance(model, nn.Module):
        for part in list(model.modules()):
            if callable(join := getattr(part, "join_guide", None)):
                join(guide)


def parse_options(texts: Iterable[str]) -> dict[str, object]:
    """Parse `key=value` texts: numbers, True, False, None, 400,200 for a tuple, or a string.

    Raises:
        ValueError: if a text has no "=".

    Example:
        >>> parse_options(["z_dim=2", "hidden=400,200", "likelihood=bernoulli"])
        {'z_dim': 2, 'hidden': (400, 200), 'likelihood': 'bernoulli'}
    """
    options: dict[str, object] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (key.isidentifier() and equals):
            raise ValueError(f"{text!r} is not an option: write key=value, such as z_dim=2")
        try:
            options[key] = ast.literal_eval(value)
            json.dumps(options[key])  # values that a run cannot store stay strings
        except (ValueError, SyntaxError, TypeError):
            options[key] = value
    return options


def entries(role: str) -> list[Entry]:
    """The models or guides that have names.

    Args:
        role: "model" or "guide".
    """
    package = importlib.import_module(f"pvae.{role}s")
    found = []
    for module in pkgutil.iter_modules(package.__path__):
        contents = importlib.import_module(f"{package.__name__}.{module.name}")
        cls = getattr(contents, contents.__all__[0])
        summary = (inspect.getdoc(cls) or "").partition("\n")[0]
        defaults = {n: "..." if p.default is p.empty else p.default for n, p in _named(cls).items()}
        found.append(Entry(module.name, cls, summary, tuple(defaults.items()), _usual(cls)))
    return found


def usual(model: str) -> Mapping[str, str]:
    """What a model of the zoo is trained with by default; empty for a program of the user's.

    Args:
        model: the text of the model.

    Example:
        >>> usual("vae")["guide"]
        'mean_field'
    """
    return next((entry.usual for entry in entries("model") if entry.name == model), {})


def _usual(cls: type) -> dict[str, str]:
    section = re.search(r"^Defaults:\n((?: +.*\n?)+)", inspect.getdoc(cls) or "", re.MULTILINE)
    lines = section[1].splitlines() if section else []
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _find(text: str, role: str) -> tuple[Source, object, str | None]:
    place, colon, name = (text, ":", "") if text.endswith(".py") else text.rpartition(":")
    if not colon:
        return Source(text), _zoo_class(text, role), None
    if place.endswith(".py"):
        path = Path(place).expanduser().resolve()
        if not path.is_file():
            raise ValueError(f"{role} {text!r}: there is no file {path}")
        source, contents = source_in(text, path), _load_file(path)
    else:
        contents = _load_module(place, text, role)
        file = getattr(contents, "__file__", None)
        source = source_in(text, Path(file)) if file else Source(text)
    outer, _, method = name.partition(".")
    if not outer or not hasattr(contents, outer):
        own = [n for n, v in vars(contents).items() if callable(v) and n[0] != "_"]
        what = f"{place} has no {outer!r}" if outer else f"say which: {place}:Name"
        raise ValueError(f"{role} {text!r}: {what}; {nearest(outer, own)}")
    found = getattr(contents, outer)
    if method and not hasattr(found, method):
        near = nearest(method, _methods(found if inspect.isclass(found) else type(found)))
        raise ValueError(f"{role} {text!r}: {outer} has no {method!r}; {near}")
    return source, found, method or None


def _zoo_class(name: str, role: str) -> type:
    known = {entry.name: entry.cls for entry in entries(role)}
    if name not in known:
        near = nearest(name, list(known))
        raise ValueError(f"unknown {role} {name!r}; {near}; one of your own is file.py:Name")
    return known[name]


def _load_file(path: Path) -> ModuleType:
    """Execute a file once, as a module with a unique name."""
    contents = hashlib.sha256(str(path).encode() + path.read_bytes()).hexdigest()
    stem = re.sub("[^0-9A-Za-z]", "_", path.stem)  # at a dot, pickle would look for a package
    name = f"pvae_program_{stem}_{contents[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    loader = SourceFileLoader(name, str(path))
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.parent))  # so that it can import files beside it
    try:
        loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]  # the next import must not find an incomplete module
        if not isinstance(error, (Exception, SystemExit)):
            raise
        line = getattr(error, "lineno", None)  # of a SyntaxError, which has no frame in the file
        for frame in traceback.extract_tb(error.__traceback__):
            line = frame.lineno if frame.filename == str(path) else line
        raise ValueError(f"{path}:{line}: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(path.parent))
    return module


def _load_module(name: str, text: str, role: str) -> ModuleType:
    sys.path.insert(0, "")  # the current folder, as for `python -m`
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        what = f"{type(error).__name__}: {error}; a file is given as file.py:Name"
        raise ValueError(f"{role} {text!r}: {what}") from error
    finally:
        sys.path.remove("")


def _construct(cls: type, text: str, values: Mapping[str, object]) -> object:
    named = _named(cls)
    missing = [n for n, p in named.items() if p.default is p.empty and n not in values]
    if missing:
        what = f"needs {missing}: give --set {missing[0]}=..."
        raise ValueError(f"{text!r} {what}; {_signature(cls)}")
    given = {name: values[name] for name in named if name in values}
    try:
        return cls(**given)
    except TypeError as error:
        raise ValueError(f"{text!r} cannot be made: {error}; {_signature(cls)}") from error


def _program(program: object, method: str | None, role: str, text: str) -> Callable[..., object]:
    called: object = program if method is None else getattr(program, method)
    # Every nn.Module is callable, but fails without forward.
    silent = isinstance(called, nn.Module) and type(called).forward is nn.Module.forward
    if callable(called) and not silent:
        return called
    methods = [f", or {text}.{name}" for name in _methods(type(called))]
    raise ValueError(
        f"{role} {text!r} is a {type(called).__name__}, which cannot be called: give a function, "
        f"a class with forward or __call__{''.join(methods[:1])}"
    )


def _methods(cls: type) -> list[str]:
    return [n for n, v in vars(cls).items() if inspect.isfunction(v) and n[0] != "_"]


def _refuse_unknown(options: Mapping[str, object], makers: Mapping[str, object]) -> None:
    named = {role: _named(maker) for role, maker in makers.items()}
    # A guide that names `model` receives the model, so an option of that name has no effect.
    known = sorted(named["model"].keys() | (named["guide"].keys() - {"model"}))
    for key in options:
        if key not in known:
            own = "".join(f"\n  {role}: {_signature(maker)}" for role, maker in makers.items())
            raise ValueError(f"no constructor has an option {key!r}; {nearest(key, known)}{own}")


def _signature(maker: object) -> str:
    if inspect.isclass(maker):
        return f"{maker.__name__}{inspect.signature(maker)}"
    return f"{getattr(maker, '__name__', repr(maker))}, a program, which takes no options"


def _named(maker: object) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(maker).parameters if inspect.isclass(maker) else {}
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: parameter for name, parameter in parameters.items() if parameter.kind in kinds}
