"""What a check found wrong, and the error that carries it."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "PairError"]


@dataclass(frozen=True)
class Finding:
    """Something about a pair that its author should know.

    Attributes:
        severity: "error" where training would be wrong, "warning" where it may be meant.
        message: what is wrong and what to change.
    """

    severity: Literal["error", "warning"]
    message: str

    def __str__(self) -> str:
        return self.message


class PairError(ValueError):
    """The pair would be trained wrongly.

    Attributes:
        findings: everything that was found, at least one of them an error.
    """

    def __init__(self, findings: list[Finding]) -> None:
        super().__init__("\n".join(str(f) for f in findings if f.severity == "error"))
        self.findings = findings
