"""The fitted tail against known tails."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import pvae
from pvae.evaluation.pareto import Tails, pareto_k, trusted_below


def exceedances(k, rows, n):
    """Draws from generalized Pareto distributions of scale 3."""
    u = torch.rand(rows, n, dtype=torch.float64)
    return 3 * torch.expm1(-k * torch.log(u)) / k


@pytest.mark.parametrize("k", [0.1, 0.3, 0.5, 0.7, 1.0])
def test_shape_of_pareto_tails(k):
    found = pareto_k(exceedances(k, 200, 1000))
    drawn = (1000 * k + 5) / 1010
    assert found.mean().item() == pytest.approx(drawn, abs=0.015)
    # The estimator has the standard error of maximum likelihood, (1 + k) / sqrt(n).
    assert found.std().item() == pytest.approx((1 + k) / 1000**0.5, rel=0.25)


@pytest.mark.parametrize("k", [0.1, 1.0])
def test_shrinkage_with_few_observations(k):
    found = pareto_k(exceedances(k, 3000, 100))
    assert found.mean().item() == pytest.approx((100 * k + 5) / 110, abs=0.02)


def test_bounded_tail_has_negative_shape():
    assert (pareto_k(torch.rand(5, 2000)) < -0.5).all()


def test_ties_with_the_cutoff_leave_the_tail():
    few = torch.cat([torch.ones(4), torch.zeros(46)])
    some = torch.cat([torch.rand(20) + 0.1, torch.zeros(30)])
    found = pareto_k(torch.stack([torch.zeros(50), few, some]))
    assert found[0].isnan()  # equal weights are no evidence of anything
    assert found[1] == torch.inf
    torch.testing.assert_close(found[2:], pareto_k(some[None, :20]))


def bits(rarely):
    """Almost all of the posterior is at y = 1, which the guide proposes rarely."""

    def model(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Bernoulli(x.new_full((len(x),), 0.5)))
            pyro.sample("x", dist.Normal(10 * y, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Bernoulli(x.new_full((len(x),), rarely)))

    return model, guide


def test_ties_are_no_evidence_of_trust():
    x = torch.full((40,), 10.0)
    estimate = pvae.log_likelihood(*bits(0.002), x, num_particles=1000)
    found = set(estimate.untrusted.tolist()) | set(estimate.unknown.tolist())
    assert found == set(range(40))
    assert len(estimate.untrusted) > 20  # those with some draws of y = 1
    assert not estimate.khat.eq(-torch.inf).any()
    estimate = pvae.log_likelihood(*bits(1e-7), x, num_particles=1000)
    assert estimate.mean < -40  # far below the truth, and nothing can show it
    assert len(estimate.unknown) == estimate.as_json()["unknown"] == 40


def test_tail_across_blocks():
    weights = torch.randn(1000, 7, dtype=torch.float64) * 3
    whole, parts = Tails(7, 1000), Tails(7, 1000)
    whole.add(0, weights)
    for block in weights.split(64):
        parts.add(0, block[:, :3])
        parts.add(3, block[:, 3:])
    assert whole.length == 95
    ordered = weights.sort(0, descending=True).values.exp()
    torch.testing.assert_close(whole.k(), pareto_k((ordered[:95] - ordered[95]).T))
    torch.testing.assert_close(whole.k(), parts.k())


def narrow(scale):
    """A posterior N(0, 1) for every x and a guide of another scale, so the tail is known."""

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(x.new_zeros(len(x)), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.new_zeros(len(x)), scale))

    return model, guide


@pytest.mark.parametrize("k", [0.3, 0.6, 0.9])
def test_narrow_guide_has_known_tail(k):
    """Weights exp((1 / s^2 - 1) z^2 / 2) with z ~ N(0, s^2) have the tail k = 1 - s^2."""
    model, guide = narrow((1 - k) ** 0.5)
    estimate = pvae.log_likelihood(model, guide, torch.zeros(40), num_particles=50_000)
    assert estimate.khat.mean().item() == pytest.approx(k, abs=0.1)


def test_unreliable_data_warning():
    model, guide = narrow(0.1)
    estimate = pvae.log_likelihood(model, guide, torch.zeros(6), num_particles=2000)
    assert estimate.untrusted.tolist() == [0, 1, 2, 3, 4, 5]
    assert "6 of 6 data" in estimate.warning
    assert "thinner tails than the posterior" in estimate.warning
    model, guide = narrow(1.3)
    estimate = pvae.log_likelihood(model, guide, torch.zeros(6), num_particles=2000)
    assert estimate.untrusted.tolist() == []
    assert estimate.warning == ""


def test_threshold_with_few_particles():
    assert trusted_below(100) == 0.5
    assert trusted_below(10**6) == 0.7


def test_too_few_particles_undefined():
    model, guide = narrow(1.0)
    estimate = pvae.log_likelihood(model, guide, torch.zeros(3), num_particles=5)
    assert estimate.khat.isnan().all()


@pytest.mark.parametrize("kind", ["grey", "binary", "real"])
def test_bits_per_dim_of_discretized_images(kind):
    """Sixteen equally likely levels cost four bits."""

    def model(x):
        with pyro.plate("data", len(x)):
            if kind == "grey":
                fn = pvae.likelihoods.grey_levels.GreyCategorical(torch.zeros(2, 3, 16))
            else:
                fn = {"binary": dist.Bernoulli(0.5), "real": dist.Normal(0.0, 1.0)}[kind]
                fn = fn.expand([2, 3])
            pyro.sample("x", fn.to_event(2), obs=x)

    x = torch.randint(0, 2, (5, 2, 3)).float()
    estimate = pvae.log_likelihood(model, lambda x: None, x, num_particles=3)
    if kind == "grey":
        assert estimate.bits_per_dim == pytest.approx(4.0)
        assert estimate.as_json()["bits_per_dim"] == pytest.approx(4.0)
    else:
        assert estimate.bits_per_dim is None
        assert "bits_per_dim" not in estimate.as_json()
