"""VIMCO: the gradient of the importance-weighted bound for draws without a gradient."""

import pytest
import torch
from exact import targets as exact
from exact.belief_network import Belief
from exact.gaussian_layers import Gaussian, Hierarchy
from exact.gradients import assert_unbiased, draw

from pvae import objectives
from pvae.objectives.iwae import importance_weighted
from pvae.objectives.vimco import without_each

ROWS = pytest.mark.parametrize("rows", [1, 7])


@ROWS
@pytest.mark.parametrize("particles", [2, 3])
def test_unbiased_for_belief_network(particles, rows):
    pair = Belief()
    x = pair.x[:rows]
    target = exact.importance_weighted(pair, x, particles)
    assert_unbiased(objectives.VIMCO(num_particles=particles), pair, x, target)


@ROWS
def test_unbiased_for_gaussian(rows):
    pair = Gaussian(scored=True)
    x = pair.x[:rows]
    target = exact.importance_weighted(pair, x, 2)
    assert_unbiased(objectives.VIMCO(num_particles=2), pair, x, target)


@ROWS
@pytest.mark.parametrize("order", ["up", "down"])
@pytest.mark.parametrize("scored", [(), ("z1",), ("z2",)])
def test_unbiased_with_some_reparameterized_sites(scored, order, rows):
    pair = Hierarchy(order, scored=scored)
    x = pair.x[:rows]
    target = exact.importance_weighted(pair, x, 2)
    assert_unbiased(objectives.VIMCO(num_particles=2), pair, x, target)


def test_signal_against_geometric_mean_of_others():
    log_weights = torch.tensor([[0.0, 1.0], [-2.0, 0.5], [1.0, -3.0]])
    for k in range(3):
        replaced = log_weights.clone()
        replaced[k] = log_weights[[j for j in range(3) if j != k]].mean(0)
        expected = replaced.exp().mean(0).log()
        torch.testing.assert_close(without_each(log_weights)[k], expected)


def test_less_variance_than_plain_score():
    """Compared with the score function with the whole bound as its signal."""

    class Plain(objectives.VIMCO):
        def estimate(self, pair, batch):
            draws = pair.particles.draw(batch, self.num_particles)
            bound = importance_weighted(draws.log_weights)
            surrogate = bound + bound.detach() * draws.score.sum(0)
            return objectives.PerDatum(bound, surrogate, draws.global_terms)

    pair = Belief()
    assert_unbiased(Plain(2), pair, pair.x, exact.importance_weighted(pair, pair.x, 2))
    plain, vimco = (draw(cls(3), pair, pair.x, 20_000) for cls in (Plain, objectives.VIMCO))
    assert 4 * vimco.variance("recognition") < plain.variance("recognition")


def test_rises_to_evidence():
    pair = Belief()
    evidence = pair.evidence(pair.x).sum().item()
    draws = [draw(objectives.VIMCO(num_particles=k), pair, pair.x, 1000) for k in (2, 8, 32)]
    bounds = [-one.mean["loss"].item() for one in draws]
    assert bounds[0] + 0.5 < bounds[1] < bounds[2] < evidence + 4 * draws[2].std_error("loss")
    assert bounds[2] == pytest.approx(evidence, abs=0.4)


def test_impossible_particles_have_finite_signals():
    """Where all other particles have p(x, z) = 0, the baseline is 0, which depends on none."""
    nothing = -torch.inf
    weights = torch.tensor([[0.5, 0.5], [nothing, 1.0], [nothing, nothing]])
    baseline = without_each(weights)
    assert torch.isfinite(baseline).all()
    expected = torch.tensor([1.0]).exp().log() - torch.tensor(3.0).log()
    torch.testing.assert_close(baseline[0, 1], expected[0])  # of the second particle alone
    assert baseline[0, 0] == 0
