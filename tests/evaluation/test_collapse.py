import json

import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import linear_gaussian as lg
from exact import linear_hierarchy as lh
from pyro import poutine
from torch.distributions import kl_divergence

import pvae
from pvae.evaluation import active_units, information, kl_by_site, latent_use

COVARIANCE = torch.linalg.inv(lg.PRECISION)


def exact_divergence(x):
    q = dist.MultivariateNormal(lg.posterior_loc(x), precision_matrix=lg.PRECISION)
    return kl_divergence(q, dist.MultivariateNormal(torch.zeros(lg.Z), torch.eye(lg.Z)))


def half(x):
    """The first coordinate has the exact posterior's mean; the second is the prior."""
    with pyro.plate("data", len(x)):
        loc = lg.posterior_loc(x) * torch.tensor([1.0, 0.0])
        pyro.sample("z", dist.Normal(loc, torch.tensor([0.3, 1.0])).to_event(1))


# Divergence by site


def test_divergence_per_datum():
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


def test_monte_carlo_divergence():
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
def test_divergences_of_hierarchy_add_up(order):
    x = lh.draw(300)
    sites = kl_by_site(lh.model, lh.posterior(order), x, num_particles=100)
    assert sites["z2"].analytic  # the prior of z2 has no parent site
    assert sites["z1"].analytic == (order == "down")
    error = (sites["z1"].mc_error ** 2 + sites["z2"].mc_error ** 2) ** 0.5
    assert sum(s.mean for s in sites.values()) == pytest.approx(lh.divergence(x), abs=4 * error)
    assert error < 0.05
    if order == "down":
        top = sites["z2"]
        q = dist.Normal(lh.posterior_loc(x)[:, 1], lh.COVARIANCE[1, 1] ** 0.5)
        exact = kl_divergence(q, dist.Normal(0.0, 1.0))
        torch.testing.assert_close(top.per_datum, exact, atol=1e-3, rtol=1e-4)
        assert top.mc_error == 0


def test_masked_data_and_global_sites():
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


def test_activity_is_variance_of_posterior_mean():
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


def test_coordinate_that_ignores_data_is_inactive():
    z = active_units(lg.model, half, lg.draw(200)).sites["z"]
    assert z.active.tolist() == [True, False]
    assert z.variance[1] == 0
    assert active_units(lg.model, half, lg.draw(200), threshold=5.0).sites["z"].count == 0


def test_mean_of_flow_without_noise():
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


# Both diagnostics


def test_collapsed_sites():
    def model(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("dead", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
            pyro.sample("still", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        lg.model(x)

    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("dead", dist.Normal(x.new_zeros(3) + 0.01, 1.0).to_event(1))
            # Differs from the prior, but is the same for every datum.
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


def test_posterior_has_no_collapse():
    assert latent_use(lg.model, lg.posterior, lg.draw(100)).collapsed == {}


def test_state_restored():
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
    assert use.divergence["z"].mean == pytest.approx(exact, rel=1e-4)  # dropout was off


def test_numbers_out_of_range_raise():
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
