"""What Pyro trains, trains here: 60 kinds of pairs, with Pyro's losses."""

import pytest
from any_pair import STEPS, Row, compare, examine, use
from pairs.kinds import KINDS

# Pairs of which the quick tests do more than a few steps.
USED = ("planar", "boolean indexing", "AutoNormal", "SS-VAE", "sequences, trimmed")
CAPTURED = ("VAE", "mixture")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", KINDS)
def test_steps(name):
    row = Row(name)
    compare(row, KINDS[name], {"recorded": 8, **({"captured": 4} if name in CAPTURED else {})})
    assert row.failures == []
    assert row.replayed["recorded"] >= 6, row.notes


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", USED)
def test_use(name):
    row = Row(name)
    use(row, KINDS[name], "auto")
    assert row.failures == []


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_everything(name):
    row = examine(name)
    assert row.failures == []
    assert row.replayed["recorded"] > STEPS["recorded"] / 2, row.notes
