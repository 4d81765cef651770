import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import linear_gaussian as lg
from pairs import callables as kinds
from pyro import poutine

import pvae


def test_bound_is_evidence_minus_gap():
    x = lg.draw(400)
    bound = pvae.elbo(lg.model, lg.wide, x, num_particles=200)
    exact = lg.evidence(x) - lg.WIDE_GAP
    assert abs(bound.mean - exact.mean().item()) < 4 * bound.mc_error
    assert bound.mc_error < 0.01
    assert sum(bound.sites.values()) == pytest.approx(bound.mean, abs=1e-4)
    spread = exact.std().item() / 400**0.5
    assert bound.std_error == pytest.approx(spread, rel=0.05)


def test_bound_under_posterior_is_evidence():
    x = lg.draw(50)
    bound = pvae.elbo(lg.model, lg.posterior, x)
    torch.testing.assert_close(bound.per_datum, lg.evidence(x), atol=1e-4, rtol=0)


def test_terms_by_site():
    x = lg.draw(300)
    bound = pvae.elbo(lg.model, lg.posterior, x, num_particles=300)
    q = dist.MultivariateNormal(lg.posterior_loc(x), precision_matrix=lg.PRECISION)
    prior = dist.MultivariateNormal(torch.zeros(lg.Z), torch.eye(lg.Z))
    divergence = torch.distributions.kl_divergence(q, prior).mean().item()
    assert bound.sites["z"] == pytest.approx(-divergence, abs=0.02)


def test_log_likelihood_is_exact_evidence():
    x = lg.draw(300)
    estimate = pvae.log_likelihood(lg.model, lg.wide, x, num_particles=2000)
    assert estimate.mc_error < 0.01
    assert abs(estimate.mean - lg.evidence(x).mean().item()) < 4 * estimate.mc_error
    assert ((estimate.ess > 1) & (estimate.ess < 2000)).all()


def test_mc_error_matches_spread_over_seeds():
    x = lg.draw(20)
    for function in (pvae.elbo, pvae.log_likelihood):
        runs = [function(lg.model, lg.wide, x, num_particles=50, seed=s) for s in range(60)]
        spread = torch.tensor([r.mean for r in runs]).std().item()
        reported = sum(r.mc_error for r in runs) / len(runs)
        assert reported == pytest.approx(spread, rel=0.3)


def test_one_particle_has_no_mc_error():
    bound = pvae.elbo(lg.model, lg.wide, lg.draw(5))
    assert bound.mc_error != bound.mc_error
    assert bound.as_json()["mc_error"] is None


def test_bound_below_importance_sampling_below_evidence():
    x = lg.draw(200)
    bound = pvae.elbo(lg.model, lg.wide, x, num_particles=50)
    few = pvae.log_likelihood(lg.model, lg.wide, x, num_particles=3)
    many = pvae.log_likelihood(lg.model, lg.wide, x, num_particles=500)
    assert bound.mean < few.mean < many.mean
    assert many.mean < lg.evidence(x).mean().item() + 4 * many.mc_error


def test_per_datum_values_match_single_data():
    x = lg.draw(6)
    together = pvae.log_likelihood(lg.model, lg.posterior, x, num_particles=4).per_datum
    alone = [pvae.log_likelihood(lg.model, lg.posterior, row[None], 4).mean for row in x]
    torch.testing.assert_close(together, torch.tensor(alone), atol=1e-4, rtol=0)


def test_pair_without_plate():
    def flat(x):
        z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), lg.Z), 1.0).to_event(2))
        pyro.sample("x", dist.Normal(z @ lg.WEIGHT.T + lg.BIAS, lg.SCALE).to_event(2), obs=x)

    def q(x):
        batched = dist.MultivariateNormal(lg.posterior_loc(x), precision_matrix=lg.PRECISION)
        pyro.sample("z", batched.to_event(1))

    x = lg.draw(7)
    bound = pvae.elbo(flat, q, x)
    torch.testing.assert_close(bound.per_datum, lg.evidence(x), atol=1e-4, rtol=0)


def test_scales_ignored_and_masks_applied():
    x = lg.draw(8)
    mask = torch.tensor([True] * 4 + [False] * 4)

    def scaled(x):
        with poutine.scale(scale=17.0):
            lg.model(x)

    def masked(x):
        with poutine.mask(mask=mask[: len(x)]):
            lg.model(x)

    def masked_posterior(x):
        with poutine.mask(mask=mask[: len(x)]):
            lg.posterior(x)

    exact_mean = lg.evidence(x).mean().item()
    assert pvae.elbo(scaled, lg.posterior, x).mean == pytest.approx(exact_mean, abs=1e-4)
    part = pvae.elbo(masked, masked_posterior, x).per_datum
    exact = torch.where(mask, lg.evidence(x), 0.0)
    torch.testing.assert_close(part, exact, atol=1e-4, rtol=0)


def test_plate_of_full_data_set_size():
    def sized(x):
        with pyro.plate("data", 1000, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(lg.Z), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ lg.WEIGHT.T + lg.BIAS, lg.SCALE).to_event(1), obs=x)

    def q(x):
        with pyro.plate("data", 1000, subsample_size=len(x)):
            precision = lg.PRECISION
            pyro.sample("z", dist.MultivariateNormal(lg.posterior_loc(x), None, precision))

    x = lg.draw(40)
    # The 2400 tiled rows exceed the plate.
    estimate = pvae.log_likelihood(sized, q, x, num_particles=60)
    torch.testing.assert_close(estimate.per_datum, lg.evidence(x), atol=1e-4, rtol=0)


def test_global_site_in_elbo_but_not_log_likelihood():
    def shared(x):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(w, 1.0), obs=x)

    def q(x):
        pyro.sample("w", dist.Normal(1.0, 0.1))

    x = torch.randn(100)
    bound = pvae.elbo(shared, q, x)
    prior, own = dist.Normal(0.0, 1.0), dist.Normal(1.0, 0.1)
    divergence = torch.distributions.kl_divergence(own, prior).item()
    many = [pvae.elbo(shared, q, x, seed=s).sites["w"] for s in range(200)]
    assert sum(many) / 200 == pytest.approx(-divergence / 100, abs=2e-3)
    assert bound.per_datum.shape == (100,)
    with pytest.raises(ValueError, match=r"\['w'\] are global"):
        pvae.log_likelihood(shared, q, x, num_particles=3)


def test_other_plate_of_batch_size():
    def chance(x):
        with pyro.plate("pixels", 5, dim=-2), pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x.T)

    def q(x):
        with pyro.plate("pixels", 5, dim=-2), pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x.T / 2, 0.5**0.5))

    x = torch.arange(10.0).reshape(2, 5)
    exact = dist.Normal(0.0, 2**0.5).log_prob(x).sum(1)
    torch.testing.assert_close(pvae.elbo(chance, q, x).per_datum, exact)
    from pvae.pair.plate import find_data_plate
    from pvae.pair.traces import paired_traces

    square = torch.zeros(5, 5)
    plate = find_data_plate(lambda b: paired_traces(chance, q, b), (square,))
    assert plate is not None
    assert plate.name == "data"


def test_subsampling_plate_raises():
    def picks(x):
        with pyro.plate("data", len(x), subsample_size=1) as index:
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x[index])

    with pytest.raises(ValueError, match="subsamples the batch itself"):
        pvae.elbo(picks, lambda x: None, torch.zeros(6))


def test_state_restored():
    drop = torch.nn.Dropout(0.5)

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(drop(x + 1), 1.0), obs=x)

    before = torch.get_rng_state()
    bound = pvae.elbo(model, lambda x: None, torch.zeros(50))
    assert (torch.get_rng_state() == before).all()
    assert drop.training
    one = dist.Normal(1.0, 1.0).log_prob(torch.tensor(0.0)).item()
    assert bound.mean == pytest.approx(one, abs=1e-5)  # dropout was off


def test_zero_particles_raise():
    with pytest.raises(ValueError, match="give at least 1"):
        pvae.elbo(lg.model, lg.wide, lg.draw(3), num_particles=0)


def test_several_data_plates():
    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(lg.Z), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z @ lg.WEIGHT.T + lg.BIAS, lg.SCALE).to_event(1), obs=x)

    x = lg.draw(9)
    for particles in (1, 10):
        bound = pvae.elbo(model, lg.posterior, x, particles)
        torch.testing.assert_close(bound.per_datum, lg.evidence(x), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        pvae.log_likelihood(model, lg.posterior, x, 7).per_datum, lg.evidence(x), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("marked", [True, False])
def test_site_of_the_model_alone(marked):
    """It is summed out if it is marked for enumeration, and drawn from its prior otherwise."""
    weights, locs = torch.tensor([0.3, 0.7]), torch.tensor([-1.0, 1.0])

    def model(x):
        with pyro.plate("data", len(x)):
            infer = {"enumerate": "parallel"} if marked else {}
            y = pyro.sample("y", dist.Categorical(weights), infer=infer)
            pyro.sample("x", dist.Normal(locs[y], 1.0), obs=x)

    x = torch.linspace(-2, 2, 50)
    exact = (dist.Normal(locs, 1.0).log_prob(x[:, None]) + weights.log()).logsumexp(1)
    estimate = pvae.log_likelihood(model, lambda x: None, x, 4000)
    assert abs(estimate.mean - exact.mean().item()) < 4 * estimate.mc_error + 1e-6
    bound = pvae.elbo(model, lambda x: None, x, 1000)
    drawn = (dist.Normal(locs, 1.0).log_prob(x[:, None]) * weights).sum(1).mean().item()
    expected = exact.mean().item() if marked else drawn
    assert bound.mean == pytest.approx(expected, abs=1e-6 if marked else 0.02)


@pytest.mark.parametrize("make", ["factor", "sequential"])
def test_global_site_counts_once(make):
    def model(x):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        if make == "factor":
            with pyro.plate("data", len(x)):
                pyro.factor("x", dist.Normal(w, 1.0).log_prob(x))
        else:
            for i in pyro.plate("data", len(x)):
                pyro.sample(f"x{i}", dist.Normal(w, 1.0), obs=x[i])

    def guide(x):
        pyro.sample("w", dist.Delta(torch.tensor(1.0)))

    x = torch.linspace(0, 2, 40)
    exact = dist.Normal(1.0, 1.0).log_prob(x).mean() + dist.Normal(0.0, 1.0).log_prob(
        torch.tensor(1.0)
    ) / len(x)
    assert pvae.elbo(model, guide, x).mean == pytest.approx(exact.item(), abs=1e-5)
    with pytest.raises(ValueError, match=r"\['w'\] are global"):
        pvae.log_likelihood(model, guide, x, num_particles=2)


@pytest.mark.parametrize("estimate", [pvae.elbo, pvae.log_likelihood, pvae.ais, pvae.bdmc])
def test_dependent_rows_raise(estimate):
    def centred(x):
        lg.posterior(x - x.mean(0))

    with pytest.raises(
        pvae.evaluation.UndefinedQuantityError, match="'z' in the guide depend on other rows"
    ):
        estimate(lg.model, centred, lg.draw(20), 2)
    with pytest.raises(
        pvae.evaluation.UndefinedQuantityError, match="'z' in the guide depend on other rows"
    ):
        pvae.evaluation.active_units(lg.model, centred, lg.draw(20))


def test_batch_norm_in_eval_mode():
    model, guide = kinds.make("functions", 0)
    assert pvae.elbo(model, guide, kinds.toy_data()[:20]).mean < 0
