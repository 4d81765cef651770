"""The result of `check`: a table of sites and the findings; and the error for a wrong pair."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pvae.pair.locations import Location

__all__ = ["Finding", "PairError", "Report", "SiteRow"]

_FOLDED = 3  # rows alike that are shown one by one
_HEAD = ("site", "program", "plates", "batch", "event", "distribution")


@dataclass(frozen=True)
class Finding:
    """A mistake, or a possible mistake, in a pair.

    Attributes:
        severity: "error" if training would be incorrect, "warning" if the construct may be
            intentional.
        message: what is wrong and what to change.
        file: the file of the statement, or None.
        line: its line in the file.

    Example:
        >>> print(Finding("warning", "the model observes nothing: give obs=x", "pair.py", 12))
        pair.py:12: the model observes nothing: give obs=x
    """

    severity: Literal["error", "warning"]
    message: str
    file: str | None = None
    line: int | None = None

    @classmethod
    def at(
        cls, location: Location | None, severity: Literal["error", "warning"], message: str
    ) -> "Finding":
        """A finding about a statement at a location."""
        return cls(severity, message, *(location or (None, None)))

    def __str__(self) -> str:
        """As `file.py:12: what is wrong`."""
        if self.file is None:
            return self.message
        return f"{_shown(self.file)}:{self.line}: {self.message}"


class PairError(ValueError):
    """The pair would be trained wrongly.

    Attributes:
        findings: all findings, at least one of them an error.

    Example:
        >>> import pvae, pyro, torch
        >>> import pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):  # its site is not the model's
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("w", dist.Normal(x / 2, 0.5**0.5))
        >>> try:
        ...     report = pvae.check(model, guide, torch.randn(8))
        ... except pvae.PairError as error:
        ...     print(error.findings[0].severity, str(error).partition("guide has no")[1:])
        error ('guide has no', " site 'z'; the model samples ['z'], the guide ['w']: ...
    """

    def __init__(self, findings: list[Finding]) -> None:
        super().__init__("\n".join(str(f) for f in findings if f.severity == "error"))
        self.findings = findings


def _shown(file: str) -> str:
    """The path from the working directory, for a file below it."""
    path = Path(file)
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else file


@dataclass(frozen=True)
class SiteRow:
    """One sample statement of a pair, as it ran on the batch.

    Attributes:
        site: its name.
        program: "model" or "guide".
        plates: the plates around it, keyed by name, with their size in this batch.
        batch_shape: of its distribution.
        event_shape: of its distribution: the dimensions of one datum.
        distribution: the class that the user called.
        reparameterized: whether gradients pass through its draws.
        observed: whether it is given data.

    Example:
        >>> import pvae, pyro, torch
        >>> import pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):  # the posterior itself
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))
        >>> row = pvae.check(model, guide, torch.randn(8)).sites[0]
        >>> row.site, row.program, row.plates, row.reparameterized
        ('z', 'guide', {'data': 8}, True)
    """

    site: str
    program: str
    plates: dict[str, int]
    batch_shape: tuple[int, ...]
    event_shape: tuple[int, ...]
    distribution: str
    reparameterized: bool
    observed: bool

    def cells(self) -> tuple[str, ...]:
        """The cells of the table."""
        plates = ", ".join(f"{name} {size}" for name, size in self.plates.items()) or "-"
        kind = "observed" if self.observed else "reparameterized" if self.reparameterized else ""
        what = ", ".join(part for part in (self.distribution, kind) if part)
        shapes = str(self.batch_shape), str(self.event_shape)
        return self.site, self.program, plates, *shapes, what


def _folded(rows: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Rows that differ in the number in their name alone, such as steps of a sequence, as one."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for name, *rest in rows:
        alike.setdefault((re.sub(r"\d+", "#", name), *rest), []).append(name)
    lines = []
    for (_, *rest), names in alike.items():
        folded = [f"{names[0]} ... {names[-1]} ({len(names)})"] if len(names) > _FOLDED else names
        lines += [(name, *rest) for name in folded]
    return lines


@dataclass(frozen=True)
class Report:
    """The sites of a pair as Pyro sees them, and the findings about it.

    Attributes:
        sites: its sample statements, the guide's before the model's; empty where a program fails.
        findings: errors if training would be incorrect, warnings if the construct may be
            intentional.

    Example:
        >>> import pvae, pyro, torch
        >>> import pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):  # the posterior itself
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))
        >>> report = pvae.check(model, guide, torch.randn(8))
        >>> [row.site for row in report.sites], report.findings
        (['z', 'z', 'x'], ())
    """

    sites: tuple[SiteRow, ...]
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> list[Finding]:
        """The findings with severity "error"."""
        return [finding for finding in self.findings if finding.severity == "error"]

    def __str__(self) -> str:
        """The table, then one line per finding."""
        lines = [_HEAD, *_folded([row.cells() for row in self.sites])] if self.sites else []
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        ]
        found = [f"{finding.severity}: {finding}" for finding in self.findings]
        return "\n".join([*text, *(found or ["nothing found"])])
