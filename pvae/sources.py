"""Where the programs of a run come from, and whether they may be executed again."""

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Source", "changed", "refuse_foreign", "source_in"]


@dataclass(frozen=True)
class Source:
    """The origin of a program.

    Attributes:
        text: as given by the user.
        file: the file that defines it, or None for the zoo.
        sha256: of that file.
    """

    text: str
    file: str | None = None
    sha256: str | None = None


def source_in(text: str, file: Path) -> Source:
    """The source of a program that a file defines."""
    return Source(text, str(file), _sha256(file))


def changed(source: Source) -> str | None:
    """A sentence if the file of a source has changed; None otherwise."""
    path = Path(source.file or "")
    if source.file and not path.is_file():
        return f"{path}, which defines {source.text!r}, was removed after the run was trained"
    if source.file is None or (now := _sha256(path)) == source.sha256:
        return None
    return (
        f"{path} has changed since the run was trained (sha256 {str(source.sha256)[:8]}... then, "
        f"{now[:8]}... now)"
    )


def refuse_foreign(described: Mapping[str, Any], *, trust: bool, changed_too: bool = False) -> None:
    """Refuse to execute programs that a run names, unless they are the zoo's, or known and trusted.

    Args:
        described: what `Built.as_json` returned.
        trust: whether the user trusts programs that are not the zoo's.
        changed_too: whether also if their files changed.

    Raises:
        ValueError: if a program is not the zoo's, and is not trusted or no longer the same.
    """
    _check(described)
    for role in ("model", "guide"):
        text, source = described[role], Source(**described["sources"][role])
        place, colon, _ = text.rpartition(":")
        if not (colon or text.endswith(".py")):
            continue  # a name of the zoo
        if not trust:
            raise ValueError(
                f"the run names {text!r} as its {role}, which is code of its own and is executed "
                "when the run is loaded: say that you trust it (--trust, trust=True), or give both "
                "programs, load(run, model=..., guide=...)"
            )
        of_file = (place == source.file) if place.endswith(".py") else (text == source.text)
        if not of_file or source.file is None or source.sha256 is None:
            raise ValueError(
                f"the run does not say which file defined its {role} {text!r}: give both programs, "
                "load(run, model=..., guide=...)"
            )
        if (note := changed(source)) is not None and not changed_too:
            raise ValueError(
                f"{note}: bring back the file that the run was trained with, or give both "
                "programs, load(run, model=..., guide=...)"
            )


def _check(described: object) -> None:
    """Check that a run describes its pair as `Built.as_json` does."""
    kinds: dict[str, type] = {
        "model": str, "guide": str, "options": Mapping, "defaults": Mapping, "sources": Mapping
    }  # fmt: skip
    fields = {field.name for field in dataclasses.fields(Source)}
    if (
        not isinstance(described, Mapping)
        or not all(isinstance(described.get(key), kind) for key, kind in kinds.items())
        or not all(
            isinstance(described["sources"].get(role), Mapping)
            and "text" in described["sources"][role]
            and described["sources"][role].keys() <= fields
            for role in ("model", "guide")
        )
    ):
        raise ValueError(
            "the config of the run does not describe its pair as pvae train does: give both "
            "programs, load(run, model=..., guide=...)"
        )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
