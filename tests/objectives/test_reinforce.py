"""REINFORCE: unbiased for the ELBO with every baseline, and less variance with a good one."""

import pytest
import torch
from exact import targets as exact
from exact.belief_network import Belief
from exact.gaussian_layers import Gaussian, Hierarchy
from exact.gradients import assert_unbiased, draw

from pvae import objectives
from pvae.objectives import MovingAverage, NetworkBaseline

ROWS = pytest.mark.parametrize("rows", [1, 7])


def average():
    """A moving average after some batches."""
    baseline = MovingAverage().double()
    baseline.see(torch.tensor([-2.5]).double())
    return objectives.REINFORCE(baseline=baseline)


def network():
    baseline = NetworkBaseline((3,), hidden=4).double()
    baseline.average.see(torch.tensor([-2.5]).double())
    return objectives.REINFORCE(baseline=baseline)


BASELINES = {
    "none": lambda: objectives.REINFORCE(baseline="none"),
    "leave_one_out": lambda: objectives.REINFORCE(num_particles=2, baseline="leave_one_out"),
    "three": lambda: objectives.REINFORCE(num_particles=3, baseline="leave_one_out"),
    "moving_average": average,
    "network": network,
}


@ROWS
@pytest.mark.parametrize("baseline", BASELINES)
def test_unbiased_for_belief_network(baseline, rows):
    pair = Belief()
    x = pair.x[:rows]
    assert_unbiased(BASELINES[baseline](), pair, x, exact.elbo(pair, x))


@ROWS
def test_unbiased_for_gaussian(rows):
    pair = Gaussian(scored=True)
    x = pair.x[:rows]
    assert_unbiased(BASELINES["leave_one_out"](), pair, x, exact.elbo(pair, x))


@ROWS
@pytest.mark.parametrize("order", ["up", "down"])
@pytest.mark.parametrize("scored", [(), ("z1",), ("z2",), ("z1", "z2")])
def test_unbiased_with_some_reparameterized_sites(scored, order, rows):
    pair = Hierarchy(order, scored=scored)
    x = pair.x[:rows]
    assert_unbiased(BASELINES["leave_one_out"](), pair, x, exact.elbo(pair, x))


@pytest.mark.parametrize("scored", [(), ("z1",), ("z2",)])
def test_reparameterized_sites_need_no_baseline(scored):
    """With a zero-mean signal, a test of the mean would not notice a superfluous score."""
    pair = Hierarchy("up", scored=scored)
    assert_unbiased(BASELINES["none"](), pair, pair.x, exact.elbo(pair, pair.x))


def test_baselines_reduce_variance():
    pair = Belief()
    plain = draw(objectives.REINFORCE(2, baseline="none"), pair, pair.x, 20_000)
    left_out = draw(objectives.REINFORCE(2, baseline="leave_one_out"), pair, pair.x, 20_000)
    assert 1.5 * left_out.variance("recognition") < plain.variance("recognition")
    single = draw(objectives.REINFORCE(baseline="none"), pair, pair.x, 20_000)
    averaged = draw(average(), pair, pair.x, 20_000)
    assert 1.5 * averaged.variance("recognition") < single.variance("recognition")


def test_reparameterization_reduces_variance():
    path, score = (
        draw(objectives.REINFORCE(2), pair, pair.x, 20_000)
        for pair in (Gaussian(), Gaussian(scored=True))
    )
    assert 2 * path.variance("recognition") < score.variance("recognition")
