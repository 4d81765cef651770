"""Options of a command from a file: TOML that a user wrote, or the config.json of a run."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from pvae._validation import nearest
from pvae.training.files import read_json

__all__ = ["config_option"]

_ALIASES = {"data": "data_name", "set": "settings"}


def _read(path: Path) -> Mapping[str, Any]:
    if path.suffix == ".json":
        command = read_json(path).get("command")
        if command is None:
            raise ValueError(f"{path} has no command line: the run was made from Python")
        return {name: value for name, value in command.items() if value is not None}
    try:
        return tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no TOML: {error}") from error


def _use(ctx: click.Context, _: click.Parameter, path: Path | None) -> None:
    """Make the values of a file the defaults of a command."""
    if path is None:
        return
    known = {str(parameter.name) for parameter in ctx.command.params}
    defaults: dict[str, Any] = {}
    for key, value in _read(path).items():
        name = _ALIASES.get(key, key).replace("-", "_")
        if name not in known:
            raise ValueError(f"{path}: unknown option {key!r}; {nearest(key, sorted(known))}")
        if name == "settings" and isinstance(value, Mapping):
            value = [f"{option}={_text(setting)}" for option, setting in value.items()]
        defaults[name] = value
    ctx.default_map = {**(ctx.default_map or {}), **defaults}


def _text(value: object) -> str:
    return value if isinstance(value, str) else repr(value)


def config_option(command: Any) -> Any:
    """Add --config to a command."""
    option = click.option(
        "--config",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        is_eager=True,
        expose_value=False,
        callback=_use,
        help="Take options from a .toml file, or from the config.json of a run; those of the "
        "command line come first.",
    )
    return option(command)
