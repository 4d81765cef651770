import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import linear_gaussian as lg
from pyro import poutine

import pvae


def test_sample_has_model_moments():
    draws = pvae.sample(lg.model, torch.zeros(20_000, lg.X))
    assert set(draws) == {"x", "z"}
    covariance = lg.WEIGHT @ lg.WEIGHT.T + lg.SCALE**2 * torch.eye(lg.X)
    torch.testing.assert_close(draws["x"].mean(0), lg.BIAS, atol=0.08, rtol=0)
    torch.testing.assert_close(torch.cov(draws["x"].T), covariance, atol=0.3, rtol=0)
    torch.testing.assert_close(torch.cov(draws["z"].T), torch.eye(lg.Z), atol=0.05, rtol=0)
    residual = draws["x"] - draws["z"] @ lg.WEIGHT.T - lg.BIAS
    assert residual.std().item() == pytest.approx(lg.SCALE, rel=0.02)


def test_infer_and_reconstruct():
    x = lg.draw(2500)  # more than one batch
    codes = pvae.infer(lg.posterior, x)
    torch.testing.assert_close(codes["z"], lg.posterior_loc(x))
    expected = lg.posterior_loc(x) @ lg.WEIGHT.T + lg.BIAS
    torch.testing.assert_close(pvae.reconstruct(lg.model, lg.posterior, x), expected)
    torch.testing.assert_close(pvae.decode(lg.model, codes, x), expected)


def test_means_in_hierarchy_and_discrete_sites():
    def guide(x):
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(2 * x, 1.0))
            pyro.sample("z2", dist.Normal(z1 + 1, 1.0))
            pyro.sample("b", dist.Bernoulli(torch.full((len(x),), 0.5)))

    x = torch.arange(50.0)
    codes = pvae.infer(guide, x)
    torch.testing.assert_close(codes["z1"], 2 * x)
    torch.testing.assert_close(codes["z2"], 2 * x + 1)
    assert set(codes["b"].tolist()) == {0.0, 1.0}


def test_global_site_drawn_once():
    def model(x):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(w, 1e-4), obs=x)

    draws = pvae.sample(model, torch.zeros(3000))
    assert draws["w"].shape == ()
    assert draws["x"].std() < 1e-3
    inferred = pvae.infer(lambda x: pyro.sample("w", dist.Normal(1.0, 1.0)), torch.zeros(3000))
    assert inferred["w"] == 1.0


def test_several_observed_sites():
    def model(a, b):
        with pyro.plate("data", len(a)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("a", dist.Normal(z, 1.0), obs=a)
            pyro.sample("b", dist.Normal(-z, 1.0), obs=b)

    def guide(a, b):
        with pyro.plate("data", len(a)):
            pyro.sample("z", dist.Normal((a - b) / 3, 0.5))

    data = (torch.ones(4), -torch.ones(4))
    rebuilt = pvae.reconstruct(model, guide, data)
    torch.testing.assert_close(rebuilt["a"], torch.full((4,), 2 / 3))
    torch.testing.assert_close(rebuilt["b"], torch.full((4,), -2 / 3))
    decoded = pvae.decode(model, {"z": torch.arange(4.0)}, data)
    torch.testing.assert_close(decoded["b"], -torch.arange(4.0))
    drawn = pvae.predict(model, guide, data, num_samples=3)
    assert {name: value.shape for name, value in drawn.items()} == {"a": (3, 4), "b": (3, 4)}


def test_conditional_model():
    def model(x, y):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(10.0 * y, 1e-3), obs=x)

    draws = pvae.sample(model, (torch.zeros(3), torch.arange(3)))
    torch.testing.assert_close(draws["x"], 10 * torch.arange(3.0), atol=0.1, rtol=0)


def test_deterministic_sites():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(lg.Z), 1.0).to_event(1))
            loc = pyro.deterministic("loc", z @ lg.WEIGHT.T + lg.BIAS, event_dim=1)
            pyro.sample("obs", dist.Normal(loc, lg.SCALE).to_event(1), obs=x)

    x = lg.draw(6)
    draws = pvae.sample(model, x)
    assert {name: value.shape for name, value in draws.items()} == {"z": (6, 2), "obs": (6, 5)}
    expected = lg.posterior_loc(x) @ lg.WEIGHT.T + lg.BIAS
    torch.testing.assert_close(pvae.reconstruct(model, lg.posterior, x), expected)


@pytest.mark.parametrize("around", [False, True])
def test_conditioned_sites_keep_their_values(around):
    """`poutine.condition` counts around the model and around the call; data are still drawn."""
    model = pvae.models.VAE(x_shape=(4,), z_dim=2, hidden=8, likelihood="gaussian")
    handler = poutine.condition(data={"z": torch.full((3, 2), 2.0)})
    like = torch.zeros(3, 4)
    if around:
        with handler:
            draws = pvae.sample(model, like)
    else:
        draws = pvae.sample(handler(model), like)
    assert (draws["z"] == 2.0).all()
    assert not torch.equal(draws["x"], like)
