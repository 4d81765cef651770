"""File and line of the user's sample and parameter statements, and of errors."""

import dis
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, cast

from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pvae.pair.discovery import namespaces

__all__ = [
    "Location",
    "Locations",
    "line_naming",
    "location_of_error",
    "program_frame",
    "user_frame",
]

_LIBRARIES = tuple(sysconfig.get_path(name) + os.sep for name in ("stdlib", "purelib", "platlib"))
_OWN = str(Path(__file__).parent.parent) + os.sep
_CALLER = str(Path(_OWN, "pair", "program.py"))  # frames further out call the program
_STEP = str(Path(_OWN, "engine", "step.py"))  # likewise, in training
_ZOO = tuple(str(Path(_OWN, name)) + os.sep for name in ("models", "guides"))


class Location(NamedTuple):
    """A line of a program."""

    file: str
    line: int


class Locations(Messenger):
    """Records the line of each sample and parameter statement.

    Attributes:
        sites: the sample statements, keyed by site.
        params: keyed by name, the statements that give the parameter an initial value, in their
            order.
        values: the (unconstrained) parameters, keyed by name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sites: dict[str, Location] = {}
        self.params: dict[str, list[Location]] = {}
        self.values: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: Message[Any, Any]) -> None:
        location = _statement()
        if location is not None and msg["name"] is not None and not site_is_subsample(msg):
            self.sites.setdefault(msg["name"], location)

    def _pyro_post_param(self, msg: Message[Any, Any]) -> None:
        self.values[msg["args"][0]] = cast(Any, msg["value"]).unconstrained()

    def _pyro_param(self, msg: Message[Any, Any]) -> None:
        location = _statement()
        name, *init = msg["args"]
        known = self.params.setdefault(name, [])
        if location is not None and init and location not in known:
            known.append(location)


def location_of_error(passed: TracebackType | None) -> Location | None:
    """The innermost line of the user's code that an error passed through."""
    location = None
    while passed is not None:
        if not _is_foreign(passed.tb_frame.f_code.co_filename):
            location = Location(passed.tb_frame.f_code.co_filename, passed.tb_lineno)
        passed = passed.tb_next
    return location


def line_naming(programs: Mapping[str, Callable[..., object]], name: str) -> Location | None:
    """The first line of the programs' functions that reads a variable or attribute of a name."""
    for code in namespaces(programs).code:
        for instruction in dis.get_instructions(code):
            line = instruction.positions.lineno if instruction.positions else None
            if instruction.argval == name and instruction.opname.startswith("LOAD") and line:
                return Location(code.co_filename, line)
    return None


def user_frame(frames: Sequence[traceback.FrameSummary]) -> str:
    """File and line of the innermost frame of the user's code, as `file.py:12`; "" if none."""
    own = [frame for frame in frames if not _is_foreign(frame.filename)]
    return f"{own[-1].filename}:{own[-1].lineno}" if own else ""


def program_frame(frames: Sequence[traceback.FrameSummary]) -> str:
    """File and line of the innermost frame of a program that a step calls; "" if there is none."""
    calls = [place for place, frame in enumerate(frames) if frame.filename == _STEP]
    inside = frames[calls[-1] :] if calls else []
    own = [f for f in inside if not _is_foreign(f.filename) or f.filename.startswith(_ZOO)]
    return f"{own[-1].filename}:{own[-1].lineno}" if own else ""


def _statement() -> Location | None:
    """The innermost line of the program that is running."""
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if not _is_foreign(file) or file.startswith(_ZOO):
            return Location(file, frame.f_lineno)
        if frame.f_back is None or file == _CALLER:
            return None
        frame = frame.f_back
    return None


def _is_foreign(file: str) -> bool:
    return file.startswith((*_LIBRARIES, _OWN, "<"))
