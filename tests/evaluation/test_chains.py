"""Annealed importance sampling: untouched state, and models that it rejects."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import linear_gaussian as lg
from pyro import poutine

from pvae.evaluation import ais


def test_seed_and_untouched_state():
    torch.manual_seed(3)
    net = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Dropout(0.5), torch.nn.Linear(4, 3))

    def model(x):
        pyro.module("net", net)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(net(z), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(1))

    x = torch.randn(6, 3)
    before = torch.get_rng_state()
    grad = torch.ones_like(net[0].weight)
    net[0].weight.grad = grad
    with torch.no_grad():
        first = ais(model, guide, x, 4, 5, num_leapfrog_steps=2, seed=1)
    with torch.inference_mode():
        again = ais(model, guide, x.clone(), 4, 5, num_leapfrog_steps=2, seed=1)
    other = ais(model, guide, x, 4, 5, num_leapfrog_steps=2, seed=2)
    assert torch.equal(first.per_datum, again.per_datum)
    assert not torch.equal(first.per_datum, other.per_datum)
    assert not first.per_datum.requires_grad
    assert (torch.get_rng_state() == before).all()
    assert net.training
    assert net[1].training
    assert all(p.requires_grad for p in net.parameters())
    assert net[0].weight.grad is grad
    assert torch.equal(grad, torch.ones_like(grad))
    assert net[2].weight.grad is None
    with pytest.raises(ValueError, match="loc"):  # validation of distributions is on again
        dist.Normal(torch.tensor(torch.nan), 1.0)


def test_dropout_disabled():
    drop = torch.nn.Dropout(0.9)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z + drop(x.new_ones(())), 1.0), obs=x)

    x = torch.zeros(30)
    estimate = ais(model, model, x, 32, 20, start="prior", num_leapfrog_steps=3)
    exact = dist.Normal(1.0, 2**0.5).log_prob(x).mean().item()
    assert abs(estimate.mean - exact) < 4 * estimate.mc_error


def test_guide_unused_from_prior():
    def never(x):
        raise AssertionError

    x = lg.draw(3)
    assert ais(lg.model, never, x, 2, 3, start="prior").per_datum.isfinite().all()


def test_single_site_guide_runs_once():
    runs = []

    def guide(x):
        runs.append(len(x))
        lg.wide(x)

    ais(lg.model, guide, lg.draw(3), 2, 10, num_leapfrog_steps=3)
    assert len(runs) < 20  # not in each of the 40 gradients of pilot and chains


# Errors


def one_latent(site):
    def program(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", site)
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    return program


def without_observation(program):
    return poutine.block(program, hide=["x"])


def test_unmovable_latents_raise():
    x = torch.zeros(4)
    discrete = one_latent(dist.Poisson(torch.tensor(1.0)))
    with pytest.raises(ValueError, match=r"site 'z' \(Poisson.*pvae.log_likelihood"):
        ais(discrete, discrete, x, start="prior")
    point = one_latent(dist.Delta(torch.tensor(1.0)))
    with pytest.raises(ValueError, match=r"site 'z' \(Delta.*pvae.log_likelihood"):
        ais(point, point, x, start="prior")
    normal = one_latent(dist.Normal(torch.tensor(0.0), 1.0))
    with pytest.raises(ValueError, match=r"'z' of the guide is a point mass .*start='prior'"):
        ais(normal, without_observation(point), x)
    uniform = one_latent(dist.Uniform(torch.tensor(0.0), 1.0))
    with pytest.raises(
        ValueError, match=r"draws values at site 'z' .* outside the model's support"
    ):
        ais(uniform, without_observation(normal), x)


def test_dependent_support_raises():
    def model(x):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Uniform(x.new_tensor(0.0), 1.0))
            z1 = pyro.sample("z1", dist.Uniform(0.0, z2))
            pyro.sample("x", dist.Normal(z1, 1.0), obs=x)

    with pytest.raises(ValueError, match=r"site 'z1' has a support that depends.*log_likelihood"):
        ais(model, model, torch.zeros(4), start="prior")


def test_global_sites_and_terms_raise():
    def model(x, factor=False):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
        w = 1.0 if factor else pyro.sample("w", dist.Normal(0.0, 1.0))
        if factor:
            pyro.factor("penalty", torch.tensor(1.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(z + w, 1.0), obs=x)

    x = torch.zeros(4)
    with pytest.raises(ValueError, match=r"\['w'\] are global.*pvae.elbo"):
        ais(model, model, x, start="prior")
    with pytest.raises(ValueError, match=r"\['penalty'\] are global"):
        ais(lambda x: model(x, True), model, x, start="prior")


def test_sites_of_one_program_raise():
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("u", dist.Normal(x.new_zeros(()), 1.0), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))

    x = torch.zeros(4)
    model = one_latent(dist.Normal(torch.tensor(0.0), 1.0))
    with pytest.raises(ValueError, match=r"guide has no site 'z'.*start='prior'"):
        ais(model, lambda x: None, x)
    with pytest.raises(ValueError, match=r"auxiliary site 'u'.*start='prior'"):
        ais(model, guide, x)


def test_flow_without_inverse_raises():
    flow = dist.transforms.Planar(2)

    def guide(x):
        base = dist.Normal(x.new_zeros(2), 1.0)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.TransformedDistribution(base.expand([len(x), 2]), [flow]))

    with pytest.raises(ValueError, match=r"'z' of the guide has no density at values.*inverse"):
        ais(lg.model, guide, lg.draw(4))


def test_dependent_rows_raise():
    def flat(x):
        z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def loop(x):
        for i in pyro.plate("data", len(x)):
            z = pyro.sample(f"z{i}", dist.Normal(0.0, 1.0))
            pyro.sample(f"x{i}", dist.Normal(z, 1.0), obs=x[i])

    def picks(x):
        with pyro.plate("data", len(x), subsample_size=1) as index:
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[index])

    def none(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(x.new_zeros(()), 1.0), obs=x)

    for model, message in (
        (flat, "no plate of the batch's size encloses.*pvae.log_likelihood"),
        (loop, "plate 'data' is a loop.*pvae.log_likelihood"),
        (picks, "plate 'data' subsamples the batch itself"),
        (none, "no latent site.*pvae.log_likelihood"),
    ):
        with pytest.raises(ValueError, match=message):
            ais(model, model, torch.zeros(4), start="prior")


def test_options_out_of_range_raise():
    for name in ("num_particles", "num_temperatures", "num_leapfrog_steps", "max_bytes"):
        with pytest.raises(ValueError, match=f"{name} is 0: give at least 1"):
            ais(lg.model, lg.wide, lg.draw(3), **{name: 0})
    with pytest.raises(ValueError, match="start is 'posterior': give 'guide' or 'prior'"):
        ais(lg.model, lg.wide, lg.draw(3), start="posterior")
