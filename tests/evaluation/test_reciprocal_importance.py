import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import linear_gaussian as lg

from pvae.evaluation import marginal_by_hmc
from pvae.evaluation.reciprocal_importance import split_rhat


@pytest.mark.parametrize("start", ["guide", "prior"])
def test_exact_evidence(start):
    x = lg.draw(60)
    estimate = marginal_by_hmc(lg.model, lg.wide, x, start=start, num_leapfrog_steps=5)
    assert estimate.mc_error < 0.005
    assert abs(estimate.mean - lg.evidence(x).mean().item()) < 4 * estimate.mc_error
    assert (estimate.per_datum - lg.evidence(x)).abs().max() < 0.1


def test_bad_guide_only_starts_chains():
    def bad(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(lg.posterior_loc(x) + 2, 0.05).to_event(1))

    x = lg.draw(40)
    estimate = marginal_by_hmc(lg.model, bad, x, num_leapfrog_steps=5)
    assert abs(estimate.mean - lg.evidence(x).mean().item()) < 4 * estimate.mc_error


def test_positive_latents():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(x.new_tensor(4.0), 1.0))
            pyro.sample("x", dist.Poisson(z), obs=x)

    x = torch.arange(12.0)
    estimate = marginal_by_hmc(model, model, x, 32, 400, start="prior", num_leapfrog_steps=5)
    exact = dist.NegativeBinomial(4.0, torch.tensor(0.5)).log_prob(x)
    assert estimate.mc_error < 0.02
    # The log-gamma posterior has a lighter right tail than the Gaussian: errors have heavy tails.
    assert abs(estimate.mean - exact.mean().item()) < 6 * estimate.mc_error
    assert (estimate.per_datum - exact).abs().max() < 0.2


@pytest.mark.slow
def test_mc_error_matches_spread_over_seeds():
    x = lg.draw(30)
    runs = [
        marginal_by_hmc(lg.model, lg.posterior, x, 16, 20, num_leapfrog_steps=1, seed=s)
        for s in range(20)
    ]
    spread = torch.tensor([run.mean for run in runs]).std().item()
    reported = sum(run.mc_error for run in runs) / len(runs)
    assert reported == pytest.approx(spread, rel=0.5)


def test_seed_and_generators():
    before = torch.get_rng_state()
    first, again, other = (
        marginal_by_hmc(
            lg.model, lg.wide, lg.draw(4), 4, 10, num_leapfrog_steps=2, seed=s, max_bytes=b
        )
        for s, b in ((1, 2**20), (1, 2**20), (2, 1))
    )
    assert torch.equal(first.per_datum, again.per_datum)
    assert not torch.equal(first.per_datum, other.per_datum)
    assert (torch.get_rng_state() == before).all()


def test_too_many_dimensions_or_few_draws_raise():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(6), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)

    with pytest.raises(ValueError, match=r"\{'z': 6\} have 6 dimensions.*above 5.*pvae.ais"):
        marginal_by_hmc(model, model, torch.zeros(4), start="prior")
    with pytest.raises(ValueError, match="num_samples is 1 with 16 chains"):
        marginal_by_hmc(lg.model, lg.wide, lg.draw(4), num_samples=1)
    with pytest.raises(ValueError, match=r"num_samples is 4 with 2 chains.*more than 4"):
        marginal_by_hmc(lg.model, lg.wide, lg.draw(4), 2, 4)
    with pytest.raises(ValueError, match="num_particles is 0"):
        marginal_by_hmc(lg.model, lg.wide, lg.draw(4), num_particles=0)


def test_rhat_matches_arviz():
    from arviz_stats.base import array_stats

    torch.manual_seed(0)
    drift = torch.randn(51, 6, 4, dtype=torch.float64).cumsum(0) * torch.tensor([0.0, 0.1, 0.3, 1])
    draws = torch.randn(51, 6, 4, dtype=torch.float64) + drift
    chains = draws.movedim(2, 0).mT.numpy()
    wanted = [float(array_stats.rhat(own, method="split")) for own in chains]
    torch.testing.assert_close(split_rhat(draws), torch.tensor(wanted, dtype=torch.float64))


@pytest.mark.parametrize(("noise", "mixes"), [(0.5, True), (0.01, False)])
def test_chains_that_do_not_reach_the_posterior(noise, mixes):
    """With little noise, the posterior is a point that chains from the prior do not find."""
    weight = torch.tensor([[1.0, 0.2], [0.3, 1.0], [0.5, -0.4]])

    def loc(z):
        return ((3 * z).sin() + z) @ weight.mT

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(loc(z), noise).to_event(1), obs=x)

    torch.manual_seed(0)
    x = loc(torch.randn(10, 2)) + noise * torch.randn(10, 3)
    axis = torch.linspace(-5, 5, 1001, dtype=torch.float64)
    z = torch.cartesian_prod(axis, axis)
    of_x = dist.Normal(loc(z.float()).double(), noise).log_prob(x[:, None].double()).sum(2)
    joint = dist.Normal(0.0, 1.0).log_prob(z).sum(1) + of_x
    exact = joint.logsumexp(1) + 2 * (axis[1] - axis[0]).log()
    estimate = marginal_by_hmc(model, model, x, 8, 100, start="prior")
    far = (estimate.per_datum - exact).abs() > 1.0
    assert far.all() != mixes
    assert set(far.nonzero().flatten().tolist()) <= set(estimate.unmixed.tolist())
    assert len(estimate.warning) > 0 or mixes
    assert estimate.as_json()["unmixed"] == len(estimate.unmixed)
    if not mixes:
        assert estimate.warning.startswith(
            "the chains of 10 of 10 data have not mixed (R-hat above"
        )
