"""Wake-sleep: each phase is unbiased for the loss of its own."""

import exact_objectives as exact
import pytest
from gradient_draws import assert_unbiased
from small_pairs import Belief, Gaussian, Hierarchy

from pvae import objectives

ROWS = pytest.mark.parametrize("rows", [1, 7])
PAIRS = {
    "gaussian": Gaussian,
    "gaussian by scores": lambda: Gaussian(scored=True),
    "up": lambda: Hierarchy("up"),
    "up, one by scores": lambda: Hierarchy("up", scored=("z2",)),
    "down": lambda: Hierarchy("down"),
    "belief": Belief,
}


@ROWS
@pytest.mark.parametrize("name", PAIRS)
def test_both_phases_are_unbiased(name, rows):
    pair = PAIRS[name]()
    x = pair.x[:rows]
    assert_unbiased(objectives.WakeSleep(), pair, x, exact.wake_sleep(pair, x))


def test_the_wake_phase_is_the_mean_over_particles():
    pair = Belief()
    target = exact.wake_sleep(pair, pair.x)
    assert_unbiased(objectives.WakeSleep(num_particles=3), pair, pair.x, target)
