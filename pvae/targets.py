"""From a text to a program: "vae", "my.py:Mine", "package.module:Mine", "my.py:Class.method"."""

import ast
import difflib
import hashlib
import importlib
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType

__all__ = ["Built", "Entry", "Source", "build", "changed", "parse_options", "zoo"]

_PACKAGES = {"model": "pvae.models", "guide": "pvae.guides"}


@dataclass(frozen=True)
class Entry:
    """A member of the zoo.

    Attributes:
        name: what to give for it.
        cls: its class.
        summary: the first line of its docstring.
        options: names of constructor arguments with their defaults.
    """

    name: str
    cls: type
    summary: str
    options: tuple[tuple[str, object], ...]


@dataclass(frozen=True)
class Source:
    """Where a program came from.

    Attributes:
        text: what was given for it.
        file: the file that holds it, or None for the zoo and for packages.
        sha256: of that file.
    """

    text: str
    file: str | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Built:
    """A pair, and how to build it again."""

    model: Callable[..., object]
    guide: Callable[..., object]
    options: Mapping[str, object]
    defaults: Mapping[str, object]
    sources: Mapping[str, Source]

    def as_json(self) -> dict[str, object]:
        """What `build` needs to build the pair again, and the sources as they were."""
        texts = {
            role: source.text if source.file is None else _with_file(source.text, source.file)
            for role, source in self.sources.items()
        }
        return {
            **texts,
            "options": dict(self.options),
            "defaults": dict(self.defaults),
            "sources": {role: asdict(source) for role, source in self.sources.items()},
        }


def build(
    model: str,
    guide: str,
    options: Mapping[str, object] | None = None,
    defaults: Mapping[str, object] | None = None,
) -> Built:
    """Find two programs, and construct those that are classes.

    A function is the program, and so is an instance; a class is constructed; of "Class.method" the
    class is, once for both programs. A guide whose constructor names `model` is given the model.

    Args:
        model: the text of the model.
        guide: the text of the guide.
        options: arguments for every constructor that names them.
        defaults: what constructors that name it get where the options do not give it.

    Raises:
        ValueError: nothing is found under a text, or options and constructors do not fit.

    Example:
        >>> built = build("vae", "mean_field", {"z_dim": 2}, {"x_shape": (8, 8)})
        >>> built.model.z_dim
        2
    """
    options, defaults = dict(options or {}), dict(defaults or {})
    found = {role: _find(text, role) for role, text in (("model", model), ("guide", guide))}
    makers = {role: maker for role, (_, maker, _) in found.items() if inspect.isclass(maker)}
    _refuse_unknown(options, makers)
    # Two methods of one class share an instance.
    instances: dict[type, object] = {}
    programs: dict[str, Callable[..., object]] = {}
    for role, (source, maker, method) in found.items():
        program: object = maker
        if inspect.isclass(maker):
            if method is None or maker not in instances:
                given = {"model": programs["model"]} if role == "guide" else {}
                instances[maker] = _construct(maker, source.text, defaults | options, given)
            program = instances[maker]
        if method is not None:
            program = getattr(program, method, None)
        if not callable(program):
            raise ValueError(
                f"{role} {source.text!r} is a {type(program).__name__}, which cannot be called: "
                "give a function, or a class with forward or __call__"
            )
        programs[role] = program
    sources = {role: source for role, (source, _, _) in found.items()}
    return Built(programs["model"], programs["guide"], options, defaults, sources)


def changed(source: Source) -> str | None:
    """A sentence, where the file of a source is not what it was; None where it is."""
    if source.file is None:
        return None
    path = Path(source.file)
    if not path.exists():
        return f"{path}, which holds {source.text!r}, is gone since the run was trained"
    now = _sha256(path)
    if now == source.sha256:
        return None
    return (
        f"{path} has changed since the run was trained (sha256 {str(source.sha256)[:8]}... then, "
        f"{now[:8]}... now): what is loaded may not be what was trained"
    )


def parse_options(texts: Iterable[str]) -> dict[str, object]:
    """Read `key=value` texts: numbers, True, False, None, 400,200 for a tuple, or else a text.

    Raises:
        ValueError: a text has no "=".

    Example:
        >>> parse_options(["z_dim=2", "hidden=400,200", "likelihood=bernoulli"])
        {'z_dim': 2, 'hidden': (400, 200), 'likelihood': 'bernoulli'}
    """
    options: dict[str, object] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (key.isidentifier() and equals):
            raise ValueError(f"{text!r} is no option: write key=value, such as z_dim=2")
        try:
            options[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[key] = value
    return options


def zoo(role: str) -> list[Entry]:
    """The models or guides that have names.

    Args:
        role: "model" or "guide".
    """
    package = importlib.import_module(_PACKAGES[role])
    entries = []
    for module in pkgutil.iter_modules(package.__path__):
        contents = importlib.import_module(f"{package.__name__}.{module.name}")
        cls = getattr(contents, contents.__all__[0])
        summary = (inspect.getdoc(cls) or "").partition("\n")[0]
        entries.append(Entry(module.name, cls, summary, tuple(_options_of(cls).items())))
    return entries


# Finding


def _find(text: str, role: str) -> tuple[Source, object, str | None]:
    """The source of a program, the object named, and the method of it if one is named."""
    place, colon, name = text.rpartition(":")
    if not colon:
        return Source(text), _zoo_class(text, role), None
    if place.endswith(".py"):
        path = Path(place).expanduser().resolve()
        if not path.is_file():
            raise ValueError(f"{role} {text!r}: there is no file {path}")
        source = Source(text, str(path), _sha256(path))
        contents = _load_file(path)
    else:
        source, contents = Source(text), _load_module(place, text, role)
    outer, _, method = name.partition(".")
    if not hasattr(contents, outer):
        own = [n for n, v in vars(contents).items() if callable(v) and not n.startswith("_")]
        raise ValueError(f"{role} {text!r}: {place} has no {outer!r}; {_nearest(outer, own)}")
    found = getattr(contents, outer)
    if method and not hasattr(found, method):
        own = [n for n in dir(found) if not n.startswith("_")]
        raise ValueError(f"{role} {text!r}: {outer} has no {method!r}; {_nearest(method, own)}")
    return source, found, method or None


def _zoo_class(name: str, role: str) -> type:
    entries = {entry.name: entry.cls for entry in zoo(role)}
    if name not in entries:
        raise ValueError(
            f"unknown {role} {name!r}; {_nearest(name, list(entries))}; "
            "a program of your own is file.py:Name"
        )
    return entries[name]


def _load_file(path: Path) -> ModuleType:
    """Execute a file as a module of a name of its own; once, however often it is named."""
    contents = hashlib.sha256(str(path).encode() + path.read_bytes()).hexdigest()
    name = f"pvae_program_{path.stem}_{contents[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.parent))  # so that it can import its neighbours
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ValueError(f"{path} cannot be run: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(path.parent))
    return module


def _load_module(name: str, text: str, role: str) -> ModuleType:
    sys.path.insert(0, "")  # the current folder, as for `python -m`
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ValueError(f"{role} {text!r}: {error}; a file is given as file.py:Name") from error
    finally:
        sys.path.remove("")


# Constructing


def _construct(
    cls: type, text: str, values: Mapping[str, object], given: Mapping[str, object]
) -> object:
    names = set(_parameters(cls))
    arguments = {key: value for key, value in {**values, **given}.items() if key in names}
    missing = [
        name
        for name, parameter in _parameters(cls).items()
        if parameter.default is parameter.empty and name not in arguments
    ]
    if missing:
        raise ValueError(
            f"{text!r} needs {missing}: give --set {missing[0]}=...; its constructor is "
            f"{cls.__name__}{inspect.signature(cls)}"
        )
    return cls(**arguments)


def _refuse_unknown(options: Mapping[str, object], makers: Mapping[str, type]) -> None:
    known = {name for maker in makers.values() for name in _parameters(maker)}
    for key in options:
        if key not in known:
            signatures = "\n".join(
                f"  {role}: {maker.__name__}{inspect.signature(maker)}"
                for role, maker in makers.items()
            )
            raise ValueError(
                f"no constructor has an option {key!r}; {_nearest(key, sorted(known))}\n"
                f"{signatures or '  both programs are functions, which take no options'}"
            )


def _parameters(cls: type) -> dict[str, inspect.Parameter]:
    """The constructor's arguments that can be given by name."""
    return {
        name: parameter
        for name, parameter in inspect.signature(cls).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }


def _options_of(cls: type) -> dict[str, object]:
    empty = inspect.Parameter.empty
    return {
        name: "..." if parameter.default is empty else parameter.default
        for name, parameter in _parameters(cls).items()
    }


def _nearest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    nearest = f"nearest: {', '.join(map(repr, near))}; " if near else ""
    return f"{nearest}there are {', '.join(known) or 'none'}"


def _with_file(text: str, file: str) -> str:
    return f"{file}:{text.rpartition(':')[2]}"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
