"""Variational inference and Monte Carlo EM without a recognition network, on PPCA."""

import pytest
import torch

import pvae
from pvae.guides import MeanField, PerDatum
from pvae.models import PPCA


@pytest.fixture
def linear():
    torch.manual_seed(0)
    truth = PPCA(x_shape=(5,), z_dim=2)
    with torch.no_grad():  # orthogonal columns: the posterior has independent dimensions
        truth.weight.copy_(torch.linalg.qr(torch.randn(5, 2))[0] * torch.tensor([2.0, 1.0]))
    return truth, pvae.sample(truth, torch.zeros(80, 5))["x"]


def test_new_rows_are_fitted_on_the_spot(linear):
    model, x = linear
    guide = PerDatum(model, rows=3, z_dim=2, num_steps=400)
    bound = pvae.elbo(model, guide, x, 10)
    gap = model.log_evidence(x).mean().item() - bound.mean
    assert gap + 3 * bound.mc_error >= 0
    assert gap < 0.02


def test_rows_keep_their_parameters(linear):
    _, x = linear
    model = PPCA(x_shape=(5,), z_dim=2)
    guide = PerDatum(model, rows=80, z_dim=2)
    fit = pvae.fit(model, guide, x, epochs=300, batch_size=20, learning_rate=0.02, progress=False)
    assert "replayed" in fit.engine
    by_number = pvae.elbo(fit.model, fit.guide, pvae.data.Rows(x).with_index(), 20)
    fitted = pvae.elbo(fit.model, fit.guide, x, 20)
    evidence = model.log_evidence(x).mean().item()
    assert by_number.mean == pytest.approx(fitted.mean, abs=0.1)
    assert evidence - by_number.mean < 0.15
    posterior = model.posterior(x).mean
    assert (guide.loc - posterior).abs().mean() < 0.25


def test_runs_keep_the_positions_of_numbers(linear, tmp_path):
    _, x = linear

    def make():
        model = PPCA(x_shape=(5,), z_dim=2)
        return model, PerDatum(model, rows=80, z_dim=2, num_steps=5)

    fit = pvae.fit(*make(), x, epochs=2, out=tmp_path / "run", progress=False)
    model, guide = make()
    again = pvae.load(tmp_path / "run", model=model, guide=guide)
    numbered = pvae.data.Rows(x).with_index()
    assert (
        pvae.elbo(again.model, again.guide, numbered).mean
        == pvae.elbo(fit.model, fit.guide, numbered).mean
    )


def test_monte_carlo_em_reaches_the_maximum_likelihood(linear):
    _, x = linear
    best = PPCA(x_shape=(5,), z_dim=2)
    for _ in range(200):
        best.em_step(x)
    torch.manual_seed(1)
    model, guide = PPCA(x_shape=(5,), z_dim=2), MeanField(x_shape=(5,), z_dim=2, hidden=4)
    before = [p.clone() for p in guide.parameters()]
    fit = pvae.fit(
        model, guide, x, epochs=300, batch_size=40, objective="monte_carlo_em", progress=False,
        optimizer=lambda p: torch.optim.Adam(p, lr=0.02),
        scheduler=lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 300),
    )  # fmt: skip
    gap = best.log_evidence(x).mean() - model.log_evidence(x).mean()
    assert 0 <= gap.item() < 0.05
    assert "replayed" in fit.engine
    assert all(torch.equal(a, b) for a, b in zip(before, guide.parameters(), strict=True))


def test_chains_are_resumed(linear, tmp_path):
    _, x = linear

    def train(epochs, out, resume=False):
        torch.manual_seed(1)
        model, guide = PPCA(x_shape=(5,), z_dim=2), MeanField(x_shape=(5,), z_dim=2, hidden=4)
        pvae.fit(model, guide, x, epochs=epochs, batch_size=40, objective="monte_carlo_em",
                 out=out, resume=resume, progress=False)  # fmt: skip
        return model

    whole = train(6, tmp_path / "whole")
    train(3, tmp_path / "parts")
    parts = train(6, tmp_path / "parts", resume=True)
    assert torch.equal(whole.weight, parts.weight)


def test_numbers_need_rows():
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.zeros(8, 5)))
    model = PPCA(x_shape=(5,), z_dim=2)
    with pytest.raises(TypeError, match="data is"):
        pvae.fit(model, PerDatum(model, rows=8, z_dim=2), loader, progress=False)
