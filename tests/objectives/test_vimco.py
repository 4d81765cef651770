"""VIMCO: the gradient of the importance-weighted bound for draws that have none."""

import exact_objectives as exact
import pytest
from gradient_draws import assert_unbiased, draw
from small_pairs import Belief, Gaussian, Hierarchy

from pvae import objectives

ROWS = pytest.mark.parametrize("rows", [1, 7])


@ROWS
@pytest.mark.parametrize("particles", [2, 3])
def test_it_is_unbiased_for_a_belief_network(particles, rows):
    pair = Belief()
    x = pair.x[:rows]
    target = exact.importance_weighted(pair, x, particles)
    assert_unbiased(objectives.VIMCO(num_particles=particles), pair, x, target)


@ROWS
def test_it_is_unbiased_for_a_gaussian(rows):
    pair = Gaussian(scored=True)
    x = pair.x[:rows]
    target = exact.importance_weighted(pair, x, 2)
    assert_unbiased(objectives.VIMCO(num_particles=2), pair, x, target)


@ROWS
@pytest.mark.parametrize("order", ["up", "down"])
@pytest.mark.parametrize("scored", [(), ("z1",), ("z2",)])
def test_it_is_unbiased_where_some_draws_have_a_gradient(scored, order, rows):
    pair = Hierarchy(order, scored=scored)
    x = pair.x[:rows]
    target = exact.importance_weighted(pair, x, 2)
    assert_unbiased(objectives.VIMCO(num_particles=2), pair, x, target)


def test_it_rises_to_the_evidence_and_not_above():
    pair = Belief()
    evidence = pair.evidence(pair.x).sum().item()
    draws = [draw(objectives.VIMCO(num_particles=k), pair, pair.x, 1000) for k in (2, 8, 32)]
    bounds = [-one.mean["loss"].item() for one in draws]
    assert bounds[0] + 0.5 < bounds[1] < bounds[2] < evidence + 4 * draws[2].std_error("loss")
    assert bounds[2] == pytest.approx(evidence, abs=0.2)
