"""Is this pair what its author thinks it is? Each file checks for one kind of mistake."""

from pvae.checking.checks import check, inspect_pair
from pvae.checking.failures import program_failed
from pvae.checking.inspection import Inspection
from pvae.checking.report import Finding, PairError, Report, SiteRow
from pvae.checking.supports import Supports

__all__ = [
    "Finding",
    "Inspection",
    "PairError",
    "Report",
    "SiteRow",
    "Supports",
    "check",
    "inspect_pair",
    "program_failed",
]
