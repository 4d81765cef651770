"""What `check` returns: a table of the sites, and what was found."""

from dataclasses import dataclass

from pyro.poutine.util import site_is_factor

from pvae.checking.finding import Finding
from pvae.checking.inspection import Subject
from pvae.pair.distributions import distribution_name
from pvae.pair.traces import Site

__all__ = ["Report", "SiteRow", "described"]

_HEAD = ("site", "program", "plates", "batch", "event", "distribution")


@dataclass(frozen=True)
class SiteRow:
    """One sample statement of a pair, as it ran on the batch.

    Attributes:
        site: its name.
        program: "model" or "guide".
        plates: the plates around it, by name, with their size in this batch.
        batch_shape: of its distribution.
        event_shape: of its distribution: the dimensions of one datum.
        distribution: the class that the user called.
        reparameterized: whether gradients pass through its draws.
        observed: whether it is given data.
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
        """What the table says of it."""
        plates = ", ".join(f"{name} {size}" for name, size in self.plates.items()) or "-"
        kind = "observed" if self.observed else "reparameterized" if self.reparameterized else ""
        what = ", ".join(part for part in (self.distribution, kind) if part)
        shapes = str(self.batch_shape), str(self.event_shape)
        return self.site, self.program, plates, *shapes, what


@dataclass(frozen=True)
class Report:
    """What a pair looks like to Pyro, and what its author should know of it.

    Attributes:
        sites: its sample statements, the guide's before the model's; empty where a program fails.
        findings: errors, where training would be wrong, and warnings, where it may be meant.
    """

    sites: tuple[SiteRow, ...]
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> list[Finding]:
        """The findings for which training would be wrong."""
        return [finding for finding in self.findings if finding.severity == "error"]

    def __str__(self) -> str:
        """The table, then a line a finding."""
        lines = [_HEAD, *(row.cells() for row in self.sites)] if self.sites else []
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        ]
        found = [f"{finding.severity}: {finding}" for finding in self.findings]
        return "\n".join([*text, *(found or ["nothing found"])])


def described(subject: Subject) -> tuple[SiteRow, ...]:
    """The rows of a pair's table."""
    return tuple(
        _row(name, role, site)
        for role, _ in subject.programs
        for name, site in subject.sites(role).items()
    )


def _row(name: str, role: str, site: Site) -> SiteRow:
    fn = site["fn"]
    factor = site_is_factor(site)  # type: ignore[arg-type]
    return SiteRow(
        name,
        role,
        {frame.name: frame.size for frame in site["cond_indep_stack"]},
        tuple(fn.batch_shape),
        tuple(fn.event_shape),
        "factor" if factor else distribution_name(fn),
        fn.has_rsample and not site["is_observed"],
        site["is_observed"],
    )
