"""Draws, distributions and marginals of the posterior, against exact answers."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import linear_gaussian as lg
from pyro.infer import Predictive, TraceEnum_ELBO, config_enumerate
from torch import nn

import pvae

WEIGHTS, LOCS = torch.tensor([0.3, 0.7]), torch.tensor([-1.0, 1.0])


def test_draws_have_posterior_moments():
    x = lg.draw(1500)  # more than one batch
    draws = pvae.infer(lg.posterior, x, num_samples=400)["z"]
    assert draws.shape == (400, 1500, lg.Z)
    centred = (draws - lg.posterior_loc(x)).reshape(-1, lg.Z)
    size = len(centred)
    covariance = lg.PRECISION.inverse()
    assert (centred.mean(0).abs() < 4 * (covariance.diag() / size).sqrt()).all()
    errors = (covariance.square() + torch.outer(covariance.diag(), covariance.diag())) / size
    assert ((torch.cov(centred.T) - covariance).abs() < 4 * errors.sqrt()).all()


def test_distributions_of_the_guide():
    x = lg.draw(30)
    q = pvae.posterior(lg.posterior, x)["z"]
    torch.testing.assert_close(q.mean, lg.posterior_loc(x))
    z = q.sample()
    joint = lg.evidence(x) + q.log_prob(z)
    prior = dist.Normal(0.0, 1.0).log_prob(z).sum(1)
    likelihood = dist.Normal(z @ lg.WEIGHT.T + lg.BIAS, lg.SCALE).log_prob(x).sum(1)
    torch.testing.assert_close(joint, prior + likelihood, atol=1e-3, rtol=0)


def test_site_that_depends_on_draws_has_no_distribution():
    def guide(x):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(x, 1.0))
            pyro.sample("z1", dist.Normal(z2, 1.0))
            pyro.sample("z0", dist.Normal(2 * x, 1.0))

    found = pvae.posterior(guide, torch.arange(5.0))
    assert list(found) == ["z2", "z0"]
    with pytest.raises(pvae.UndefinedQuantityError, match=r"'z1' depends on .*pvae.infer"):
        found["z1"]
    with pytest.raises(KeyError, match="other"):
        found["other"]


def test_predictive_draws():
    x = lg.draw(40)
    draws = pvae.predict(lg.model, lg.posterior, x, num_samples=3000)["x"]
    assert draws.shape == (3000, 40, lg.X)
    loc = lg.posterior_loc(x) @ lg.WEIGHT.T + lg.BIAS
    covariance = lg.WEIGHT @ lg.PRECISION.inverse() @ lg.WEIGHT.T + lg.SCALE**2 * torch.eye(lg.X)
    errors = (covariance.diag() / 3000).sqrt()
    assert ((draws.mean(0) - loc).abs() < 4.5 * errors).all()
    found = torch.cov((draws - loc).reshape(-1, lg.X).T)
    torch.testing.assert_close(found, covariance, atol=0.03, rtol=0)


def test_global_site_is_drawn_once_for_all_batches():
    def model(x):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(w, 1e-4), obs=x)

    def guide(x):
        pyro.sample("w", dist.Normal(3.0, 1.0))

    x = torch.zeros(2500)
    draws = pvae.predict(model, guide, x, num_samples=4)["x"]
    assert draws.shape == (4, 2500)
    assert (draws.std(1) < 1e-3).all()
    assert draws.mean(1).std() > 0.1
    assert pvae.infer(guide, x, num_samples=4)["w"].shape == (4,)


def test_rows_come_first():
    """A plate outside the data plate is moved behind the rows."""

    def guide(x):
        with pyro.plate("time", 3, dim=-2), pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x.expand(3, -1), 1.0))

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            with pyro.plate("time", 3, dim=-2):
                z = pyro.sample("z", dist.Normal(x.new_zeros(3, len(x)), 1.0))
            pyro.sample("x", dist.Normal(z.sum(0), 1.0), obs=x)

    x = torch.arange(1500.0)
    codes = pvae.infer(guide, x)["z"]
    torch.testing.assert_close(codes, x[:, None].expand(-1, 3))
    torch.testing.assert_close(pvae.decode(model, {"z": codes}, x), 3 * x)
    torch.testing.assert_close(pvae.reconstruct(model, guide, x), 3 * x)


# Classes


def mixture(x):
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Categorical(WEIGHTS), infer={"enumerate": "parallel"})
        z = pyro.sample("z", dist.Normal(LOCS[y], 0.5))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def mixture_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.5 * x, 0.4))


def test_marginals_of_an_enumerated_mixture():
    """E_q(z) p(y | z), and without other latents Bayes' rule."""
    x = torch.linspace(-2, 2, 30)
    z = 0.5 * x + 0.4 * torch.linspace(-6, 6, 4001)[:, None]
    weight = dist.Normal(0.5 * x, 0.4).log_prob(z).softmax(0)
    joint = dist.Normal(LOCS, 0.5).log_prob(z[..., None]) + WEIGHTS.log()
    exact = (weight[..., None] * joint.softmax(-1)).sum(0)
    found = pvae.marginals(mixture, mixture_guide, x, num_samples=2000)
    assert found["y"].shape == (30, 2)
    assert ((found["y"] - exact).abs() < 4 * found.mc_error["y"] + 1e-5).all()
    assert (found.mc_error["y"] < 0.02).all()

    @config_enumerate
    def alone(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(WEIGHTS))
            pyro.sample("x", dist.Normal(LOCS[y], 1.0), obs=x)

    exact = (dist.Normal(LOCS, 1.0).log_prob(x[:, None]) + WEIGHTS.log()).softmax(-1)
    found = pvae.marginals(alone, lambda x: None, x, num_samples=3)
    torch.testing.assert_close(found["y"], exact)
    assert (found.mc_error["y"] == 0).all()


@pytest.mark.parametrize("kind", ["bernoulli", "categorical", "one-hot"])
def test_marginals_of_a_site_enumerated_in_the_guide(kind):
    logits = torch.tensor([[0.2, -1.0], [1.5, 0.3], [0.0, 0.0]])

    def fn():
        if kind == "bernoulli":
            return dist.Bernoulli(logits=logits[:, 1] - logits[:, 0])
        return {"categorical": dist.Categorical, "one-hot": dist.OneHotCategorical}[kind](
            logits=logits
        )

    @config_enumerate
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("y", fn())

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("y", fn())
            pyro.sample("x", dist.Normal(0.0, 1.0).expand([len(x)]), obs=x)

    found = pvae.marginals(model, guide, torch.zeros(3))
    torch.testing.assert_close(found["y"], logits.softmax(-1))


def test_marginals_without_marked_sites_raise():
    with pytest.raises(pvae.UndefinedQuantityError, match="config_enumerate"):
        pvae.marginals(lg.model, lg.posterior, lg.draw(3))


def test_marginals_of_a_fit():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.locs = nn.Parameter(LOCS.clone())

        @config_enumerate
        def forward(self, x):
            pyro.module("mixture", self)
            with pyro.plate("data", len(x)):
                y = pyro.sample("y", dist.Categorical(WEIGHTS))
                pyro.sample("x", dist.Normal(self.locs[y], 1.0), obs=x)

    x = torch.randn(100) * 2
    objective = TraceEnum_ELBO(max_plate_nesting=1)
    fit = pvae.fit(Model(), lambda x: None, x, objective=objective, epochs=2, progress=False)
    locs = fit.model.locs.detach()
    exact = (dist.Normal(locs, 1.0).log_prob(x[:, None]) + WEIGHTS.log()).softmax(-1)
    torch.testing.assert_close(pvae.marginals(fit.model, fit.guide, x)["y"], exact)


# Sampling, decoding, lines


def labelled(x, y):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
        c = pyro.sample("c", dist.Categorical(WEIGHTS.expand(len(x), 2)))
        pyro.sample("x", dist.Normal(z + 10 * y + 100 * c, 0.1), obs=x)


def test_sample_given_sites_and_arguments():
    like = torch.zeros(6), torch.zeros(6, dtype=torch.long)
    draws = pvae.sample(labelled, like, given={"z": 0.5, "c": 1, "y": 3}, mean=True)
    torch.testing.assert_close(draws["x"], torch.full((6,), 130.5))
    assert draws["c"].dtype == torch.long
    draws = pvae.sample(labelled, like, given={"z": torch.arange(6.0), "c": 0})
    assert ((draws["x"] - torch.arange(6.0)).abs() < 0.6).all()
    assert draws["x"].unique().numel() == 6
    with pytest.raises(ValueError, match=r"no \['w'\]: its sites are .*arguments are \['x', 'y'\]"):
        pvae.sample(labelled, like, given={"w": 1})
    with pytest.raises(ValueError, match=r"'z' has shape \(6,\).*has shape \(5,\)"):
        pvae.sample(labelled, like, given={"z": torch.zeros(5)})


def test_lines_through_latent_space():
    a, b = lg.draw(4, seed=2), lg.draw(4, seed=3)
    line = pvae.interpolate(lg.model, lg.posterior, a, b, num_steps=5)
    assert line.shape == (5, 4, lg.X)
    codes = lg.posterior_loc(a), lg.posterior_loc(b)
    for i in range(5):
        between = codes[0] + (codes[1] - codes[0]) * i / 4
        torch.testing.assert_close(line[i], between @ lg.WEIGHT.T + lg.BIAS)
    with pytest.raises(ValueError, match="4 rows and b has 3"):
        pvae.interpolate(lg.model, lg.posterior, a, b[:3])
    with pytest.raises(pvae.UndefinedQuantityError, match=r"\['c'\] are discrete"):
        pvae.interpolate(
            lambda x: None,
            lambda x: pyro.sample("c", dist.Bernoulli(0.5).expand([len(x)]).to_event(1)),
            a,
            b,
        )


def test_decode_unknown_site_raises():
    with pytest.raises(ValueError, match=r"no latent sites \['w'\]: it has \['z'\]"):
        pvae.decode(lg.model, {"w": torch.zeros(3)}, lg.draw(3))


def test_pyro_predictive_of_a_fit(tmp_path):
    """Pyro's own posterior predictive works on the programs of a fit, also after loading it."""

    def make():
        torch.manual_seed(1)
        sizes = {"x_shape": (6,), "z_dim": 2, "hidden": 8}
        return pvae.models.VAE(**sizes), pvae.guides.MeanField(**sizes)

    x = torch.rand(64, 6).round()
    fit = pvae.fit(*make(), x, epochs=1, out=tmp_path / "run", progress=False)
    model, guide = make()
    found = []
    for each in (fit, pvae.load(tmp_path / "run", model=model, guide=guide)):
        for parallel in (False, True):
            pyro.set_rng_seed(2)
            predictive = Predictive(each.model, guide=each.guide, num_samples=7, parallel=parallel)
            draws = predictive(x)
            assert draws["z"].shape == (7, 64, 2)
            found.append(draws["z"])
    torch.testing.assert_close(found[0], found[2])
    torch.testing.assert_close(found[1], found[3])


def test_error_leaves_gradients_on():
    def broken(x):
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        pvae.infer(broken, torch.zeros(3))
    assert torch.is_grad_enabled()
