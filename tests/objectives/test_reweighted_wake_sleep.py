"""Reweighted wake-sleep: unbiased, with weights normalized per datum, by enumeration."""

import pytest
from exact import targets as exact
from exact.belief_network import Belief
from exact.gaussian_layers import REPARAMETERIZED, SCORED
from exact.gradients import assert_unbiased

from pvae import objectives

ROWS = pytest.mark.parametrize("rows", [1, 7])
PAIRS = REPARAMETERIZED | SCORED


@ROWS
@pytest.mark.parametrize("insomnia", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("particles", [2, 3])
def test_unbiased_for_belief_network(particles, insomnia, rows):
    pair = Belief()
    x = pair.x[:rows]
    target = exact.reweighted_wake_sleep(pair, x, particles, insomnia)
    objective = objectives.RWS(num_particles=particles, insomnia=insomnia)
    assert_unbiased(objective, pair, x, target)


@ROWS
@pytest.mark.parametrize("insomnia", [0.5, 1.0])
@pytest.mark.parametrize("name", PAIRS)
def test_unbiased_for_gaussians(name, insomnia, rows):
    pair = PAIRS[name]()
    x = pair.x[:rows]
    target = exact.reweighted_wake_sleep(pair, x, 2, insomnia)
    assert_unbiased(objectives.RWS(num_particles=2, insomnia=insomnia), pair, x, target)
