"""Transitions leave the target distribution invariant."""

import pyro.distributions as dist
import pytest
import torch

from pvae.pair.hmc import evaluate, transition


@pytest.mark.parametrize("step", [0.05, 0.5, 1.0])
def test_correlated_gaussian_invariant(step):
    precision = torch.tensor([[2.0, 1.2], [1.2, 1.5]])
    target = dist.MultivariateNormal(torch.tensor([1.0, -2.0]), precision_matrix=precision)
    z = target.sample((20000,))
    # Two sites, and a separate step size for each chain.
    log_density = lambda z: target.log_prob(torch.cat([z["a"], z["b"]], 1)).double()  # noqa: E731
    point = evaluate(log_density, {"a": z[:, :1], "b": z[:, 1:]})
    steps = step * (0.5 + torch.rand(len(z)))
    for _ in range(10):
        point, accepted = transition(log_density, point, steps, 4)
    moved = torch.cat([point.z["a"], point.z["b"]], 1)
    assert (moved != z).float().mean() > 0.3
    error = 4 / len(z) ** 0.5
    spread = target.covariance_matrix.diagonal().sqrt()
    assert ((moved.mean(0) - target.loc).abs() < error * spread).all()
    difference = torch.cov(moved.T) - target.covariance_matrix
    assert (difference.abs() < 1.5 * error * spread[:, None] * spread).all()
    assert accepted.mean() > (0.99 if step == 0.05 else 0.2)


def test_skewed_distribution_invariant():
    z = dist.Gamma(2.0, 1.0).sample((20000, 1)).log()
    log_density = lambda z: (2 * z["z"] - z["z"].exp()).sum(1).double()  # noqa: E731
    point = evaluate(log_density, {"z": z})
    for _ in range(10):
        point, accepted = transition(log_density, point, torch.full((20000,), 0.9), 3)
    assert 0.5 < accepted.mean() < 0.9
    assert point.z["z"].exp().mean().item() == pytest.approx(2.0, abs=4 * 2**0.5 / 20000**0.5)
    assert point.z["z"].mean().item() == pytest.approx(0.42278, abs=4 * 0.803 / 20000**0.5)


def test_divergent_trajectory_rejected_per_chain():
    log_density = lambda z: -z["z"].pow(4).sum(1).double()  # noqa: E731
    start = evaluate(log_density, {"z": torch.ones(2, 3)})
    end, accepted = transition(log_density, start, torch.tensor([1e4, 1e-3]), 20)
    assert accepted[0] == 0
    assert accepted[1] > 0.99
    assert torch.equal(end.z["z"][0], torch.ones(3))
    again = evaluate(log_density, end.z)
    torch.testing.assert_close(end.log_density, again.log_density)
    torch.testing.assert_close(end.gradient["z"], again.gradient["z"])
