import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import linear_gaussian as lg

from pvae.evaluation import EvaluationContext, ais, bdmc


@pytest.mark.parametrize("start", ["guide", "prior"])
def test_bounds_enclose_exact_evidence(start):
    sandwich = bdmc(
        lg.model, lg.wide, torch.zeros(100, lg.X), 16, 60, start=start, num_leapfrog_steps=5
    )
    (x,) = sandwich.data
    exact = lg.evidence(x).mean().item()
    assert sandwich.lower.mean < exact + 4 * sandwich.lower.mc_error
    assert sandwich.upper.mean > exact - 4 * sandwich.upper.mc_error
    assert abs(sandwich.gap.mean) < 0.25
    assert sandwich.gap.mean == pytest.approx(sandwich.upper.mean - sandwich.lower.mean, abs=1e-4)
    assert sandwich.gap.per_datum.shape == (100,)
    assert 0.6 < sandwich.upper.acceptance.mean() < 0.9


@pytest.mark.parametrize("start", ["guide", "prior"])
def test_reverse_weights_unbiased(start):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.9))

    sandwich = bdmc(model, guide, torch.zeros(20000), 2, 5, start=start, num_leapfrog_steps=2)
    exact = dist.Normal(0.0, 2**0.5).log_prob(sandwich.data[0])
    forward = (sandwich.lower.per_datum - exact).double().exp()
    reverse = (exact - sandwich.upper.per_datum).double().exp()
    for ratios in (forward, reverse):
        assert ratios.std() < 3
        assert abs(ratios.mean().item() - 1) < 4 * ratios.std().item() / 20000**0.5
    # With few temperatures there is a gap, and the evidence lies inside it.
    assert sandwich.lower.mean < exact.mean().item() < sandwich.upper.mean


def test_gap_reveals_bad_guide():
    def bad(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(lg.posterior_loc(x) + 1, 1.0).to_event(1))

    few, many = (bdmc(lg.model, bad, lg.draw(40), 8, t, num_leapfrog_steps=3) for t in (2, 60))
    assert few.gap.mean > 2
    assert abs(many.gap.mean) < few.gap.mean / 3


def test_posterior_guide_closes_gap():
    sandwich = bdmc(lg.model, lg.posterior, torch.zeros(20, lg.X), 3, 4, num_leapfrog_steps=2)
    torch.testing.assert_close(sandwich.gap.per_datum, torch.zeros(20), atol=1e-3, rtol=0)
    exact = lg.evidence(sandwich.data[0])
    torch.testing.assert_close(sandwich.upper.per_datum, exact, atol=1e-3, rtol=0)


def test_constrained_latents_in_chunks(monkeypatch):
    monkeypatch.setattr(EvaluationContext, "rows_per_call", lambda *_: 320)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(x.new_tensor([2.0, 3.0]), 1.0).to_event(1))
            pyro.sample("x", dist.Poisson(z).to_event(1), obs=x)

    sandwich = bdmc(model, model, torch.zeros(60, 2), 16, 40, start="prior", num_leapfrog_steps=3)
    (x,) = sandwich.data
    totals = torch.tensor([2.0, 3.0])
    exact = dist.NegativeBinomial(totals, torch.tensor(0.5)).log_prob(x).sum(1)
    assert (exact - sandwich.lower.per_datum).abs().max() < 1
    assert (exact - sandwich.upper.per_datum).abs().max() < 1
    assert abs(sandwich.gap.mean) < 0.2


def test_conditions_kept_and_observations_simulated(monkeypatch):
    monkeypatch.setattr(EvaluationContext, "rows_per_call", lambda *_: 160)

    def model(x, y):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(y, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

    def guide(x, y):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((x[:, 0] + y) / 2, 0.8))

    y = torch.linspace(-50, 50, 30)
    # Ten data per call: each reverse chain starts from the draw of its own datum.
    sandwich = bdmc(model, guide, (torch.zeros(30, 1), y), 16, 20, num_leapfrog_steps=3)
    x, same = sandwich.data
    assert torch.equal(same, y)
    assert x.shape == (30, 1)
    exact = dist.Normal(y, 2**0.5).log_prob(x[:, 0])
    assert exact.mean() > -3
    assert (sandwich.lower.per_datum - exact).abs().max() < 0.5
    assert (sandwich.upper.per_datum - exact).abs().max() < 0.5


def test_seed_and_generators():
    before = torch.get_rng_state()
    like = torch.zeros(5, lg.X)
    first, again, other = (
        bdmc(lg.model, lg.wide, like, 2, 4, num_leapfrog_steps=2, seed=s) for s in (1, 1, 2)
    )
    assert torch.equal(first.gap.per_datum, again.gap.per_datum)
    assert not torch.equal(first.data[0], other.data[0])
    assert (torch.get_rng_state() == before).all()
    forward = ais(lg.model, lg.wide, first.data, 2, 4, num_leapfrog_steps=2, seed=9)
    assert forward.per_datum.shape == first.lower.per_datum.shape


def test_unsimulatable_models_raise():
    def factor(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.factor("x", dist.Normal(z, 1.0).log_prob(x))

    def computed(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=2 * x)

    with pytest.raises(ValueError, match=r"has factors \['x'\].*pvae.ais"):
        bdmc(factor, factor, torch.zeros(4), start="prior")
    with pytest.raises(ValueError, match=r"'x' observes no argument.*pvae.ais"):
        bdmc(computed, computed, torch.zeros(4), start="prior")
    with pytest.raises(ValueError, match="guide has no site 'z'"):
        bdmc(lg.model, lambda x: None, torch.zeros(4, lg.X))
