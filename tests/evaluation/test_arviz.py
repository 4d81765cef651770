"""The diagnostics of importance sampling and of calibration beside those of arviz-stats."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from arviz_stats.base import array_stats

import pvae
from pvae.evaluation.pareto import Tails


@pytest.mark.parametrize("spread", [0.3, 1.0, 3.0, 10.0])
def test_khat(spread):
    draws = 10_000  # whose tails have 300 draws in both
    weights = spread * torch.randn(draws, 4, dtype=torch.float64)
    weights[:, 3] = spread * dist.StudentT(3.0).sample((draws,)).double()
    tails = Tails(4, draws)
    tails.add(0, weights)
    for column, khat in zip(weights.T, tails.k(), strict=True):
        _, expected = array_stats.psislw(-column.numpy())
        assert khat.item() == pytest.approx(float(expected), abs=1e-6)


def test_ranks():
    """The rank of the latent that made a datum, among the guide's draws for that datum."""
    truths, draws = [], []

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        truths.append(z)

    def guide(x):
        with pyro.plate("data", len(x)):
            draws.append(pyro.sample("z", dist.Normal(x / 2, 0.5**0.5)))

    found = pvae.evaluation.calibration(
        model, guide, torch.zeros(1), num_draws=99, num_data=50, seed=3
    )
    truth = next(z for z in truths if len(z) == 50)
    of_all = [z for z in draws if len(z) % 50 == 0][-1].reshape(99, 50)
    both = torch.cat([truth[None], of_all]).double().numpy()
    expected = [array_stats.compute_ranks(column)[0] - 1 for column in both.T]
    assert found.sites["z"].ranks[:, 0].tolist() == expected
