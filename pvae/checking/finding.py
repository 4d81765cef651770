"""What a check found wrong, and the error that carries it."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pvae.pair.locations import Place

__all__ = ["Finding", "PairError"]


@dataclass(frozen=True)
class Finding:
    """Something about a pair that its author should know.

    Attributes:
        severity: "error" where training would be wrong, "warning" where it may be meant.
        message: what is wrong and what to change.
        file: the file of the statement, or None where it is not known.
        line: its line in the file.
    """

    severity: Literal["error", "warning"]
    message: str
    file: str | None = None
    line: int | None = None

    @classmethod
    def at(
        cls, place: Place | None, severity: Literal["error", "warning"], message: str
    ) -> "Finding":
        """A finding about a statement of the user's."""
        return cls(severity, message, *(place or (None, None)))

    def __str__(self) -> str:
        """As `file.py:12: what is wrong`."""
        if self.file is None:
            return self.message
        return f"{_shown(self.file)}:{self.line}: {self.message}"


class PairError(ValueError):
    """The pair would be trained wrongly.

    Attributes:
        findings: everything that was found, at least one of them an error.
    """

    def __init__(self, findings: list[Finding]) -> None:
        super().__init__("\n".join(str(f) for f in findings if f.severity == "error"))
        self.findings = findings


def _shown(file: str) -> str:
    """The path from the working directory, for a file below it."""
    path = Path(file)
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else file
