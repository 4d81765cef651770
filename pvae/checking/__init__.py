"""Is this pair what its author thinks it is? One check a file, run from one table."""

from collections.abc import Callable, Iterator

from pyro import poutine

from pvae.checking.finding import Finding, PairError
from pvae.checking.sites import unmatched_sites
from pvae.checking.support import data_outside_support

__all__ = ["Finding", "PairError", "refuse_wrong"]

_CHECKS: tuple[Callable[[poutine.Trace, poutine.Trace], Iterator[Finding]], ...] = (
    unmatched_sites,
    data_outside_support,
)


def refuse_wrong(model_trace: poutine.Trace, guide_trace: poutine.Trace) -> None:
    """Run every check on the traces of a pair.

    Raises:
        PairError: training would be wrong; its message says why and what to change.
    """
    findings = [finding for check in _CHECKS for finding in check(model_trace, guide_trace)]
    if any(finding.severity == "error" for finding in findings):
        raise PairError(findings)
