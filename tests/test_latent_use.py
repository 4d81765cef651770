import json

import linear_gaussian as lg
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch.distributions import kl_divergence

import pvae
from pvae.evaluation import (
    UndefinedError,
    active_units,
    information,
    kl_by_site,
    latent_use,
)

COVARIANCE = torch.linalg.inv(lg.PRECISION)
EXACT_INFORMATION = 0.5 * lg.PRECISION.logdet().item()  # I(x; z) = 0.5 log |I + W'W / s^2|


def exact_divergence(x):
    q = dist.MultivariateNormal(lg.posterior_loc(x), precision_matrix=lg.PRECISION)
    return kl_divergence(q, dist.MultivariateNormal(torch.zeros(lg.Z), torch.eye(lg.Z)))


def half(x):
    """The first coordinate follows the exact posterior's mean, the second is the prior."""
    with pyro.plate("data", len(x)):
        loc = lg.posterior_loc(x) * torch.tensor([1.0, 0.0])
        pyro.sample("z", dist.Normal(loc, torch.tensor([0.3, 1.0])).to_event(1))


def split_model(x):
    """`lg.model` as a hierarchy: z2 from the prior, z1 given z2, of correlation 0.6."""
    with pyro.plate("data", len(x)):
        z2 = pyro.sample("z2", dist.Normal(x.new_zeros(len(x)), 1.0))
        z1 = pyro.sample("z1", dist.Normal(0.6 * z2, 0.8))
        loc = torch.stack([z1, z2], -1) @ lg.WEIGHT.T + lg.BIAS
        pyro.sample("x", dist.Normal(loc, lg.SCALE).to_event(1), obs=x)


PRIOR = torch.tensor([[1.0, 0.6], [0.6, 1.0]])
SPLIT = torch.linalg.inv(PRIOR) + lg.WEIGHT.T @ lg.WEIGHT / lg.SCALE**2
SPLIT_COVARIANCE = torch.linalg.inv(SPLIT)


def split_loc(x):
    return (x - lg.BIAS) @ torch.linalg.solve(SPLIT, lg.WEIGHT.T / lg.SCALE**2).T


def split_posterior(order):
    """The exact posterior of `split_model`, one coordinate after the other."""

    def guide(x):
        loc, c = split_loc(x), SPLIT_COVARIANCE
        first, second = (0, 1) if order == "up" else (1, 0)
        names = ("z1", "z2")
        with pyro.plate("data", len(x)):
            a = pyro.sample(names[first], dist.Normal(loc[:, first], c[first, first] ** 0.5))
            slope = c[0, 1] / c[first, first]
            rest = (c[second, second] - slope * c[0, 1]) ** 0.5
            mean = loc[:, second] + slope * (a - loc[:, first])
            pyro.sample(names[second], dist.Normal(mean, rest))

    return guide


def split_draw(rows):
    z = torch.randn(rows, 2) @ torch.linalg.cholesky(PRIOR).T
    return z @ lg.WEIGHT.T + lg.BIAS + lg.SCALE * torch.randn(rows, lg.X)


def split_exact(x):
    q = dist.MultivariateNormal(split_loc(x), precision_matrix=SPLIT)
    return kl_divergence(q, dist.MultivariateNormal(torch.zeros(2), PRIOR)).mean().item()


# Divergence by site


def test_divergence_of_the_posterior_is_known_for_every_datum():
    x = lg.draw(200)
    z = kl_by_site(lg.model, lg.posterior, x, num_particles=2)["z"]
    torch.testing.assert_close(z.per_datum, exact_divergence(x), atol=1e-3, rtol=1e-4)
    assert z.analytic
    assert z.mc_error == 0
    assert z.per_coordinate is None  # a full covariance does not factorize
    assert z.std_error == pytest.approx(exact_divergence(x).std().item() / 200**0.5, rel=1e-3)


def test_divergence_by_coordinate():
    x = lg.draw(300)
    z = kl_by_site(lg.model, half, x, num_particles=1)["z"]
    m = lg.posterior_loc(x)[:, 0]
    first = 0.5 * (0.09 + m**2 - 1) - torch.tensor(0.3).log()
    expected = torch.tensor([first.mean(), 0.0])
    torch.testing.assert_close(z.per_coordinate, expected, atol=1e-4, rtol=0)
    error = first.std().item() / 300**0.5
    assert z.per_coordinate_error.tolist() == pytest.approx([error, 0.0], abs=1e-5)
    assert z.mean == pytest.approx(expected.sum().item(), abs=1e-4)


def test_without_a_closed_form_the_log_ratio_is_averaged():
    def model(x):
        with pyro.plate("data", len(x)):
            prior = dist.Normal(x.new_zeros(lg.Z), 1.0).to_event(1)
            flow = dist.transforms.AffineTransform(0.0, 1.0)
            z = pyro.sample("z", dist.TransformedDistribution(prior, [flow]))
            pyro.sample("x", dist.Normal(z @ lg.WEIGHT.T + lg.BIAS, lg.SCALE).to_event(1), obs=x)

    x = lg.draw(100)
    z = kl_by_site(model, lg.posterior, x, num_particles=200)["z"]
    assert not z.analytic
    assert 0 < z.mc_error < 0.05
    assert abs(z.mean - exact_divergence(x).mean().item()) < 4 * z.mc_error


@pytest.mark.parametrize("order", ["up", "down"])
def test_divergences_of_a_hierarchy_add_up_in_either_order(order):
    x = split_draw(300)
    sites = kl_by_site(split_model, split_posterior(order), x, num_particles=100)
    assert sites["z1"].analytic == sites["z2"].analytic == (order == "down")
    error = (sites["z1"].mc_error ** 2 + sites["z2"].mc_error ** 2) ** 0.5
    assert sum(s.mean for s in sites.values()) == pytest.approx(split_exact(x), abs=4 * error)
    assert error < 0.05
    if order == "down":
        top = sites["z2"]
        q = dist.Normal(split_loc(x)[:, 1], SPLIT_COVARIANCE[1, 1] ** 0.5)
        exact = kl_divergence(q, dist.Normal(0.0, 1.0))
        torch.testing.assert_close(top.per_datum, exact, atol=1e-3, rtol=1e-4)
        assert top.mc_error == 0


def test_masked_data_diverge_by_nothing_and_global_sites_are_left_out():
    mask = torch.tensor([True] * 4 + [False] * 4)

    def masked(program):
        def run(x):
            pyro.sample("w", dist.Normal(0.0, 1.0))
            with poutine.mask(mask=mask.repeat(len(x) // 8 + 1)[: len(x)]):
                program(x)

        return run

    x = lg.draw(8)
    sites = kl_by_site(masked(lg.model), masked(lg.posterior), x, num_particles=500)
    assert set(sites) == {"z"}
    expected = torch.where(mask, exact_divergence(x), 0.0)
    torch.testing.assert_close(sites["z"].per_datum, expected, atol=0.3, rtol=0)
    assert sites["z"].per_datum[4:].abs().max() == 0
    assert sites["z"].mc_error != sites["z"].mc_error


# Active units


def test_activity_is_the_variance_of_the_posterior_mean():
    x = lg.draw(5000)
    result = active_units(lg.model, lg.posterior, x)
    z = result.sites["z"]
    # Total variance: Cov_x(E[z | x]) = I - E Cov(z | x).
    exact = 1 - COVARIANCE.diag()
    assert ((z.variance - exact).abs() < 4 * z.std_error).all()
    assert (z.std_error < 0.05).all()
    assert z.count == 2
    assert z.mc_error.tolist() == [0, 0]
    torch.testing.assert_close(z.variance, pvae.infer(lg.posterior, x)["z"].var(0))


def test_a_coordinate_that_ignores_the_data_is_not_active():
    z = active_units(lg.model, half, lg.draw(200)).sites["z"]
    assert z.active.tolist() == [True, False]
    assert z.variance[1] == 0
    assert active_units(lg.model, half, lg.draw(200), threshold=5.0).sites["z"].count == 0


def test_the_mean_of_a_flow_is_averaged_without_counting_its_noise():
    def flow(x):
        with pyro.plate("data", len(x)):
            loc = lg.posterior_loc(x) * torch.tensor([1.0, 0.0])
            base = dist.Normal(loc, 1.0).to_event(1)
            shift = dist.transforms.AffineTransform(1.0, 1.0)
            pyro.sample("z", dist.TransformedDistribution(base, [shift]))

    x = lg.draw(4000)
    z = active_units(lg.model, flow, x, num_particles=20).sites["z"]
    exact = lg.posterior_loc(x)[:, 0].var().item()
    assert abs(z.variance[0].item() - exact) < 4 * z.mc_error[0].item()
    assert z.variance[1].item() == pytest.approx(0.0, abs=0.005)  # 1 / 20 without the correction
    assert z.active.tolist() == [True, False]
    assert (z.mc_error > 0).all()


# Mutual information and the aggregated posterior


def test_the_exact_posterior_has_the_models_information_and_aggregates_to_the_prior():
    result = information(lg.model, lg.posterior, lg.draw(1000), num_particles=2)
    mutual, aggregated = result.mutual_information, result.aggregated
    assert abs(mutual.mean - EXACT_INFORMATION) < 4 * mutual.std_error + 0.02
    assert abs(aggregated.mean) < 0.05
    assert mutual.mean + aggregated.mean == pytest.approx(result.kl.mean, abs=1e-5)
    assert abs(result.kl.mean - exact_divergence(lg.draw(1000)).mean().item()) < (
        4 * result.kl.mc_error
    )
    assert result.ceiling == pytest.approx(6.9078, abs=1e-4)
    assert "use more data" not in result.sentence


def test_information_is_at_most_log_n_and_says_when_it_is_close():
    def sharp(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(lg.posterior_loc(x), 1e-4).to_event(1))

    result = information(lg.model, sharp, lg.draw(50))
    assert result.mutual_information.mean == pytest.approx(result.ceiling, abs=1e-3)
    assert "use more data" in result.sentence


def test_a_guide_that_ignores_the_data_tells_nothing_and_diverges_as_one():
    def constant(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.new_ones(lg.Z), 1.0).to_event(1))

    result = information(lg.model, constant, lg.draw(400))
    assert result.mutual_information.mean == pytest.approx(0.0, abs=1e-5)
    assert abs(result.aggregated.mean - 1.0) < 4 * result.aggregated.mc_error  # 2 x 1^2 / 2


def test_errors_over_data_are_the_spread_over_data_sets():
    runs = [
        information(lg.model, half, lg.draw(150, seed=s), num_particles=2, seed=s)
        for s in range(60)
    ]
    for part in ("mutual_information", "aggregated", "kl"):
        estimates = [getattr(run, part) for run in runs]
        spread = torch.tensor([e.mean for e in estimates]).std().item()
        reported = sum(e.std_error for e in estimates) / len(estimates)
        assert reported == pytest.approx(spread, rel=0.3), part


def test_mc_errors_are_the_spread_over_seeds():
    def flow(x):
        with pyro.plate("data", len(x)):
            base = dist.Normal(lg.posterior_loc(x), 1.0).to_event(1)
            shift = dist.transforms.AffineTransform(1.0, 1.0)
            pyro.sample("z", dist.TransformedDistribution(base, [shift]))

    x = lg.draw(40)
    both = [information(lg.model, half, x, num_particles=3, seed=s) for s in range(60)]
    for part in ("mutual_information", "aggregated", "kl"):
        estimates = [getattr(run, part) for run in both]
        spread = torch.tensor([e.mean for e in estimates]).std().item()
        reported = sum(e.mc_error for e in estimates) / len(estimates)
        assert reported == pytest.approx(spread, rel=0.3), part
    runs = [active_units(lg.model, flow, x, seed=s).sites["z"] for s in range(60)]
    spreads = torch.stack([run.variance for run in runs]).std(0)
    errors = torch.stack([run.mc_error for run in runs]).mean(0)
    torch.testing.assert_close(errors, spreads, rtol=0.3, atol=0)


def test_running_the_guide_again_gives_the_same_density(monkeypatch):
    x = lg.draw(60)
    fast = information(lg.model, lg.posterior, x)
    monkeypatch.setattr("pvae.evaluation.aggregated._broadcasts", lambda *_: False)
    slow = information(lg.model, lg.posterior, x)
    monkeypatch.setattr("pvae.evaluation.particles._BUDGET", 7 * lg.X)  # seven rows in a call
    few = information(lg.model, lg.posterior, x)
    for part in ("mutual_information", "aggregated"):
        expected = getattr(fast, part).per_datum
        torch.testing.assert_close(getattr(slow, part).per_datum, expected, atol=1e-4, rtol=1e-4)
        assert getattr(few, part).mean == pytest.approx(expected.mean().item(), abs=0.2)


@pytest.mark.parametrize("order", ["up", "down"])
def test_information_of_a_hierarchy_is_of_all_layers_together(order):
    x = split_draw(300)
    result = information(split_model, split_posterior(order), x, num_particles=2)
    exact = 0.5 * (SPLIT.logdet() + PRIOR.logdet()).item()
    assert abs(result.mutual_information.mean - exact) < 4 * result.mutual_information.std_error
    assert abs(result.aggregated.mean) < 0.1
    assert abs(result.kl.mean - split_exact(x)) < 4 * result.kl.mc_error


@pytest.mark.parametrize("data_dim", [-1, -2])
def test_the_data_plate_may_be_any_dimension(data_dim):
    def plates(rows):
        return pyro.plate("data", rows, dim=data_dim), pyro.plate("pixels", 5, dim=-3 - data_dim)

    def model(x):
        data, pixels = plates(len(x))
        with data, pixels:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x.T if data_dim == -1 else x)

    def guide(x):
        data, pixels = plates(len(x))
        with data, pixels:
            pyro.sample("z", dist.Normal((x.T if data_dim == -1 else x) / 2, 0.5**0.5))

    x = torch.randn(400, 5) * 2**0.5
    z = kl_by_site(model, guide, x, num_particles=1)["z"]
    exact = 0.5 * (0.5 + x.square() / 4 - 1 + torch.tensor(2.0).log())
    torch.testing.assert_close(z.per_datum, exact.sum(1))
    torch.testing.assert_close(z.per_coordinate, exact.mean(0))
    torch.testing.assert_close(
        active_units(model, guide, x).sites["z"].variance, x.var(0) / 4, atol=1e-5, rtol=1e-4
    )
    mutual = information(model, guide, x, num_particles=1).mutual_information
    assert abs(mutual.mean - 2.5 * torch.tensor(2.0).log().item()) < 4 * mutual.std_error


def test_information_needs_the_joint_density_of_the_latents():
    def shared(program):
        def run(x):
            pyro.sample("w", dist.Normal(0.0, 1.0))
            program(x)

        return run

    def auxiliary(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("u", dist.Normal(x.new_zeros(len(x)), 1.0))
        lg.posterior(x)

    x = lg.draw(20)
    with pytest.raises(UndefinedError, match=r"\['w'\] are outside the data plate"):
        information(shared(lg.model), shared(lg.posterior), x)
    with pytest.raises(UndefinedError, match=r"no sites \['u'\]"):
        information(lg.model, auxiliary, x)
    use = latent_use(shared(lg.model), shared(lg.posterior), x)
    assert use.information is None
    assert "outside the data plate" in use.undefined


# All together


def test_collapse_is_named_by_site():
    def model(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("dead", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
            pyro.sample("still", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        lg.model(x)

    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("dead", dist.Normal(x.new_zeros(3) + 0.01, 1.0).to_event(1))
            # Not the prior, but the same for every datum.
            pyro.sample("still", dist.Normal(x.new_zeros(2) + 1.0, 0.5).to_event(1))
        lg.posterior(x)

    use = latent_use(model, guide, lg.draw(200), num_data=100)
    assert set(use.collapsed) == {"dead", "still"}
    assert "site 'dead' has collapsed: KL(q || p) is 0.00015 nats per datum" in use.sentence
    assert "site 'still' has collapsed: none of its 2 units is active" in use.sentence
    assert "site 'z' uses 2 of 2 units and" in use.sentence
    numbers = json.loads(json.dumps(use.as_json()))
    assert numbers["kl"]["z"]["num_data"] == 200
    assert numbers["information"]["num_data"] == 100
    assert numbers["active_units"]["sites"]["dead"]["active"] == 0


def test_nothing_has_collapsed_in_the_posterior():
    assert latent_use(lg.model, lg.posterior, lg.draw(100)).collapsed == {}


def test_generators_modes_and_gradients_stay_as_they_were():
    drop = torch.nn.Dropout(0.5)
    weight = torch.nn.Parameter(torch.ones(()))

    def guide(x):
        lg.posterior(drop(x) * weight)

    x = lg.draw(40)
    before = torch.get_rng_state()
    use = latent_use(lg.model, guide, x)
    assert (torch.get_rng_state() == before).all()
    assert drop.training
    assert weight.grad is None
    exact = exact_divergence(x).mean().item()
    assert use.divergence["z"].mean == pytest.approx(exact, rel=1e-4)  # no unit was dropped


def test_numbers_out_of_range_are_refused():
    x = lg.draw(10)
    with pytest.raises(ValueError, match="num_particles is 0"):
        kl_by_site(lg.model, lg.posterior, x, num_particles=0)
    with pytest.raises(ValueError, match="num_particles is 1: give at least 2"):
        active_units(lg.model, lg.posterior, x, num_particles=1)
    with pytest.raises(ValueError, match="threshold is -1"):
        active_units(lg.model, lg.posterior, x, threshold=-1.0)
    with pytest.raises(ValueError, match="needs at least 2"):
        active_units(lg.model, lg.posterior, x[:1])
    with pytest.raises(ValueError, match="num_data is 1"):
        information(lg.model, lg.posterior, x, num_data=1)
