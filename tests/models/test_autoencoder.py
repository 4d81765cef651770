"""Degenerate pairs: the objective is the reconstruction, without a prior term."""

import pytest
import torch
from pyro.infer import Trace_ELBO
from torch.func import jacrev, vmap

import pvae
from pvae.guides import Point
from pvae.models import Autoencoder

SIZES = {"x_shape": (6,), "z_dim": 2, "hidden": 8}


def loss(model, guide, x):
    return Trace_ELBO().loss(model, guide, x)


def test_objective_is_the_reconstruction():
    torch.manual_seed(0)
    model, guide, x = Autoencoder(**SIZES), Point(**SIZES), torch.rand(5, 6).round()
    z = guide(x)
    expected = -model.likelihood(model.decoder(z)).log_prob(x).sum()
    assert loss(model, guide, x) == pytest.approx(expected.item(), rel=1e-5)
    bound = pvae.elbo(model, guide, x)
    assert bound.points == ("z",)
    assert bound.sites["z"] == 0


def test_contraction_is_the_jacobian():
    torch.manual_seed(0)
    model, guide, x = Autoencoder(**SIZES), Point(**SIZES, contraction=0.7), torch.rand(5, 6)
    x = x.round()
    encode = lambda x: guide.code(guide.hidden(x).sigmoid())  # noqa: E731
    squared = vmap(jacrev(encode))(x).square().sum((1, 2))
    inside = loss(model, guide, x)
    guide.eval()
    assert inside - loss(model, guide, x) == pytest.approx(0.7 * squared.sum().item(), rel=1e-4)


@pytest.mark.parametrize("option", [{"noise": 0.5}, {"dropped": 0.5}])
def test_corruption_is_of_training_alone(option):
    torch.manual_seed(0)
    model, guide, x = Autoencoder(**SIZES), Point(**SIZES, **option), torch.rand(5, 6).round()
    assert loss(model, guide, x) != loss(model, guide, x)
    guide.eval()
    assert loss(model, guide, x) == loss(model, guide, x)


def test_denoising_improves_on_corrupted_data_and_its_chain_stays_near_the_data():
    torch.manual_seed(0)
    x = torch.tensor([[1.0, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]]).repeat(100, 1)
    model, guide = Autoencoder(**SIZES), Point(**SIZES, noise=0.7)
    fit = pvae.fit(model, guide, x, epochs=150, learning_rate=0.02, progress=False)
    assert "replayed" in fit.engine
    drawn = torch.rand(50, 6).round()
    for _ in range(10):
        noisy = drawn + 0.7 * torch.randn_like(drawn)
        drawn = pvae.predict(fit.model, fit.guide, noisy)["x"][0]
    distance = torch.cdist(drawn, x[:2], p=1).min(1).values
    assert distance.float().mean() < 0.5
    assert {tuple(row) for row in drawn.tolist()} >= {tuple(row) for row in x[:2].tolist()}


def test_options_are_checked():
    for wrong in ({"noise": -1}, {"dropped": 1.0}, {"hidden": (4, 4)}):
        with pytest.raises(ValueError, match="Point got"):
            Point(**{**SIZES, **wrong})
