"""Wake-sleep: each phase is unbiased for its own loss."""

import pytest
from exact import targets as exact
from exact.belief_network import Belief
from exact.gaussian_layers import REPARAMETERIZED, SCORED
from exact.gradients import assert_unbiased

from pvae import objectives

ROWS = pytest.mark.parametrize("rows", [1, 7])
PAIRS = REPARAMETERIZED | SCORED | {"belief": Belief}


@ROWS
@pytest.mark.parametrize("name", PAIRS)
def test_unbiased_phases(name, rows):
    pair = PAIRS[name]()
    x = pair.x[:rows]
    assert_unbiased(objectives.WakeSleep(), pair, x, exact.wake_sleep(pair, x))


def test_wake_phase_is_mean_over_particles():
    pair = Belief()
    target = exact.wake_sleep(pair, pair.x)
    assert_unbiased(objectives.WakeSleep(num_particles=3), pair, pair.x, target)
