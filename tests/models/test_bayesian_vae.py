"""Priors on weights: three guides of one program, counted once at any batch size."""

import pyro.distributions as dist
import pytest
import torch

import pvae
from pvae.guides import Weights
from pvae.models import BayesianVAE

SIZES = {"x_shape": (4,), "z_dim": 2, "hidden": 8}


def pair(kind):
    torch.manual_seed(0)
    model = BayesianVAE(**SIZES)
    return model, Weights(model, kind=kind, **SIZES)


def test_terms_of_the_weights():
    x = torch.rand(50, 4).round()
    model, guide = pair("ml")
    sites = pvae.elbo(model, guide, x, data_size=200).sites
    assert sites["w1"] == pytest.approx(0, abs=1e-6)
    assert sites["w2"] == pytest.approx(0, abs=1e-6)
    model, guide = pair("map")
    sites = pvae.elbo(model, guide, x, data_size=200).sites
    for site, loc in guide.locs.items():
        expected = dist.Normal(0.0, 1.0).log_prob(loc).sum() / 200
        assert sites[site] == pytest.approx(expected.item(), rel=1e-5)
    model, guide = pair("variational")
    bound = pvae.elbo(model, guide, x, 2000, data_size=200)
    for site, loc in guide.locs.items():
        q = dist.Normal(loc, pvae.nn.positive(guide.raw[site]))
        kl = torch.distributions.kl_divergence(q, dist.Normal(torch.zeros_like(loc), 1.0)).sum()
        assert bound.sites[site] == pytest.approx(-kl.item() / 200, rel=0.01)


@pytest.mark.parametrize("kind", ["ml", "map", "variational"])
def test_minibatches_have_the_mean_of_the_full_batch(kind):
    x = torch.rand(60, 4).round()
    losses = []
    for batch_size in (10, 60):
        model, guide = pair(kind)
        fit = pvae.fit(
            model, guide, x, epochs=400 // (60 // batch_size), batch_size=batch_size,
            learning_rate=1e-12, progress=False,
        )  # fmt: skip
        values = torch.tensor([row["train_loss"] for row in fit.history])
        losses.append((values.mean().item(), values.std().item() / len(values) ** 0.5))
    (few, error), (full, error_of_full) = losses
    assert abs(few - full) < 5 * (error + error_of_full)


def test_weights_shrink_towards_their_prior():
    x = torch.rand(60, 4).round()
    norms = {}
    for kind in ("ml", "map"):
        model, guide = pair(kind)
        pvae.fit(model, guide, x, epochs=150, learning_rate=0.02, progress=False)
        norms[kind] = sum(loc.square().sum().item() for loc in guide.locs.values())
    assert norms["map"] < 0.5 * norms["ml"]


def test_predictive_density_integrates_weights():
    x = torch.rand(20, 4).round()
    model, guide = pair("variational")
    found = pvae.log_predictive(model, guide, x, num_samples=20)
    assert found.mean > pvae.elbo(model, guide, x, 50, data_size=10**9).mean
    with pytest.raises(ValueError, match="no weights with a prior"):
        Weights(pvae.models.VAE(x_shape=(4,)), x_shape=(4,))
