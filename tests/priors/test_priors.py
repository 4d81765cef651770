"""Priors: densities by hand, evidence in closed form, and training with every guide."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

import pvae
from pvae import priors

X, Z = 5, 2


def made(name, **options):
    torch.manual_seed(0)
    given = {"components": 3, "x_shape": (X,), "hidden": 8, "transforms": 2, **options}
    return priors.get(name, Z, **given)


@pytest.mark.parametrize("name", priors.names)
def test_density_is_normalized(name):
    side = torch.linspace(-12, 12, 601)
    grid = torch.cartesian_prod(side, side)
    with torch.no_grad():
        mass = made(name)().log_prob(grid).exp().sum() * (side[1] - side[0]) ** 2
    assert mass.item() == pytest.approx(1.0, abs=2e-3)


@pytest.mark.parametrize("name", priors.names)
def test_draws_have_the_density(name):
    """E[f] over draws is that by quadrature."""
    prior = made(name)
    side = torch.linspace(-12, 12, 601)
    grid = torch.cartesian_prod(side, side)
    with torch.no_grad():
        weights = prior().log_prob(grid).softmax(0)
        with pyro.plate("draws", 40_000):
            z = pyro.sample("z", prior())
    for f in (lambda z: z[:, 0], lambda z: z[:, 1] ** 2, lambda z: (z[:, 0] * z[:, 1]).tanh()):
        exact = (weights * f(grid)).sum()
        assert abs(f(z).mean() - exact) < 4 * f(z).std() / 200 + 1e-3


def test_mixture_by_hand():
    prior = made("mixture")
    z = torch.randn(7, Z)
    scale = prior().scale
    parts = dist.Normal(prior.locs, scale).log_prob(z[:, None]).sum(-1)
    torch.testing.assert_close(prior().log_prob(z), parts.logsumexp(-1) - math.log(3))


def test_vamp_shares_the_network_of_a_guide():
    guide = pvae.guides.MeanField(x_shape=(X,), z_dim=Z, hidden=8)
    prior = priors.Vamp(Z, components=4, x_shape=(X,), network=guide.encoder)
    x = torch.rand(30, X).round()
    prior.start_at(x)
    pseudo = prior.logits.detach().sigmoid()
    assert all(((pseudo[k] - x).abs().amax(1) < 0.02).any() for k in range(4))
    z = torch.randn(6, Z)
    q = [poutine.trace(guide).get_trace(pseudo[k : k + 1]).nodes["z"]["fn"] for k in range(4)]
    exact = torch.stack([part.log_prob(z) for part in q]).logsumexp(0) - math.log(4)
    torch.testing.assert_close(prior().log_prob(z), exact)
    model = pvae.models.VAE(x_shape=(X,), z_dim=Z, hidden=8, prior=prior)
    found = pvae.fit(model, guide, x, epochs=100, learning_rate=0.01, progress=False)
    losses = [row["train_loss"] for row in found.history]
    assert sum(losses[-10:]) / 10 < sum(losses[:10]) / 10 - 0.05
    with pytest.raises(pvae.PairError, match="share parameters"):
        pvae.fit(model, guide, x, epochs=1, progress=False, objective="rws")


def test_evidence_under_a_mixture_prior():
    """With a linear decoder the evidence is a mixture of Gaussians."""
    prior, weight = made("mixture"), torch.randn(X, Z)

    def model(x):
        pyro.module("prior", prior)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior())
            pyro.sample("x", dist.Normal(z @ weight.T, 0.7).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            loc = x @ torch.linalg.pinv(weight).T
            pyro.sample("z", dist.Normal(loc, 0.6).to_event(1))

    x = torch.randn(20, Z) @ weight.T + 0.7 * torch.randn(20, X)
    scale = prior().scale.detach()
    parts = [
        dist.MultivariateNormal(
            weight @ loc, weight @ torch.diag(s**2) @ weight.T + 0.49 * torch.eye(X)
        ).log_prob(x)
        for loc, s in zip(prior.locs.detach(), scale, strict=True)
    ]
    exact = (torch.stack(parts).logsumexp(0) - math.log(3)).mean().item()
    found = pvae.log_likelihood(model, guide, x, 20_000)
    assert abs(found.mean - exact) < 4 * found.mc_error
    assert found.mc_error < 0.01


OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in ("iwae", "dreg", "rws")]


@pytest.mark.parametrize("objective", ["elbo", *OTHERS])
@pytest.mark.parametrize("guide", ["MeanField", "FullRank", "LowRank", "Flow"])
@pytest.mark.parametrize("name", priors.names)
def test_every_prior_with_every_guide(name, guide, objective, tmp_path):
    torch.manual_seed(0)
    given = {"x_shape": (X,), "z_dim": Z, "hidden": 8}
    x = torch.rand(128, X).round()

    def make():
        model = pvae.models.VAE(**given, prior=name, components=3)
        return model, getattr(pvae.guides, guide)(**given)

    model, recognition = make()
    assert list(pvae.check(model, recognition, x, objective=objective).findings) == []
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    found = pvae.fit(
        model, recognition, x, batch_size=64, epochs=10, learning_rate=0.01, progress=False,
        objective=objective, engine="recorded", out=tmp_path / "run",
    )  # fmt: skip
    assert "19 of 20 steps replayed" in found.engine
    assert found.history[-1]["train_loss"] < found.history[0]["train_loss"]
    assert not any(torch.equal(before[n], p) for n, p in model.named_parameters())
    fresh = make()
    loaded = pvae.load(tmp_path / "run", model=fresh[0], guide=fresh[1])
    bounds = [pvae.log_likelihood(f.model, f.guide, x[:20], 20).mean for f in (found, loaded)]
    assert bounds[0] == bounds[1]


def test_wrong_priors_raise():
    with pytest.raises(ValueError, match="unknown prior 'vampp'; nearest: 'vamp'"):
        priors.get("vampp", 2)
    with pytest.raises(ValueError, match="was built for z_dim=3, and the model has z_dim=2"):
        pvae.models.VAE(x_shape=(4,), z_dim=2, prior=priors.Learned(3))
    with pytest.raises(TypeError, match="expected a name of"):
        priors.get(3, 2)
    with pytest.raises(ValueError, match="components=1: give at least 2"):
        priors.Mixture(2, components=1)
    with pytest.raises(ValueError, match="z_dim=1 and transforms=3"):
        priors.Flow(1)


def test_joins_the_guide_and_starts_at_data(tmp_path, monkeypatch):
    from pvae import zoo

    built = zoo.build("vae", "mean_field", {"prior": "vamp"}, {"x_shape": (8, 8), "hidden": 8})
    assert built.model.prior.network is built.guide.encoder
    other = zoo.build("vae", "full_rank", {"prior": "vamp"}, {"x_shape": (8, 8), "hidden": 8})
    assert other.model.prior.network is not other.guide.encoder
