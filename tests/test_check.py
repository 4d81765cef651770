"""Thirty wrong pairs and more, each found with its line; and correct ones with no finding."""

import inspect
import re

import pytest
import torch
from wrong_pairs import WRONG

import pvae
from pvae.checking import PairError


def findings(model, guide, batch, objective=None):
    batch = batch if isinstance(batch, tuple) else (batch,)
    try:
        return list(pvae.check(model, guide, *batch, objective=objective).findings)
    except PairError as error:
        return error.findings


def marked_line(make, line):
    """The line of a file that bears a mark: `# here` in the function, or a text anywhere."""
    lines, first = inspect.getsourcelines(make)
    if line is not None:
        lines, first = inspect.getsource(inspect.getmodule(make)).splitlines(), 1
    (number, *_) = (i for i, text in enumerate(lines) if (line or "# here") in text)
    return first + number


@pytest.mark.parametrize(
    ("make", "severity", "message"), WRONG, ids=lambda v: getattr(v, "__name__", "")
)
def test_a_wrong_pair_is_found_out_with_its_line(make, severity, message):
    torch.manual_seed(0)
    model, guide, batch, *more = make()
    given = more[0] if more else {}
    found = findings(model, guide, batch, given.get("objective"))
    told = [str(finding) for finding in found]
    matching = [f for f in found if re.search(message, f.message, re.DOTALL)]
    assert len(matching) == 1, told
    assert matching[0].severity == severity
    assert [f for f in found if f.severity == "error"] == (
        matching if severity == "error" else []
    ), told
    if "line" not in given or given["line"] is not None:
        assert matching[0].file.endswith("wrong_pairs.py"), told
        assert matching[0].line == marked_line(make, given.get("line")), told


def test_there_are_thirty():
    assert len(WRONG) >= 30
