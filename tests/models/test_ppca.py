"""Probabilistic PCA: closed forms against independent ones, EM against the known maximum."""

import pytest
import torch
from exact import linear_gaussian as lg
from pyro import poutine
from sklearn.decomposition import FactorAnalysis

import pvae
from pvae.guides import FullRank
from pvae.models import PPCA
from pvae.nn import positive


def known():
    """The model of `linear_gaussian`."""
    model = PPCA(x_shape=(lg.X,), z_dim=lg.Z)
    with torch.no_grad():
        model.weight.copy_(lg.WEIGHT)
        model.bias.copy_(lg.BIAS)
        raw = torch.linspace(-1.0, 0.5, 100_001)
        model.raw.fill_(raw[(positive(raw, floor=1e-4) - lg.SCALE).abs().argmin()])
    return model


def test_evidence_and_posterior():
    model, x = known(), lg.draw(50)
    torch.testing.assert_close(model.log_evidence(x), lg.evidence(x), atol=2e-3, rtol=1e-3)
    q = model.posterior(x)
    torch.testing.assert_close(q.mean, lg.posterior_loc(x), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(q.covariance_matrix[0], lg.PRECISION.inverse(), atol=1e-3, rtol=1e-3)
    bound = pvae.elbo(model, model.exact_guide, x)
    torch.testing.assert_close(bound.per_datum, model.log_evidence(x), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("noise", ["isotropic", "diagonal"])
def test_em_never_lowers_the_evidence_and_finds_its_maximum(noise):
    torch.manual_seed(0)
    x = lg.draw(400)
    model = PPCA(x_shape=(lg.X,), z_dim=lg.Z, noise=noise)
    found = [model.log_evidence(x).mean().item()]
    for _ in range(600):
        model.em_step(x)
        found.append(model.log_evidence(x).mean().item())
    steps = torch.tensor(found).diff()
    assert (steps > -1e-5).all()
    if noise == "isotropic":
        best = lg.best_evidence(x)
    else:
        analysis = FactorAnalysis(lg.Z, tol=1e-8, max_iter=5000).fit(x.numpy())
        best = analysis.score(x.numpy())
    assert found[-1] == pytest.approx(best, abs=2e-3)


def test_gradients_find_the_maximum():
    torch.manual_seed(0)
    x = lg.draw(400)
    model = PPCA(x_shape=(lg.X,), z_dim=lg.Z)
    assert list(pvae.check(model, model.exact_guide, x).findings) == []
    fit = pvae.fit(
        model, model.exact_guide, x, epochs=150, learning_rate=0.05, progress=False,
        scheduler=lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 150),
    )  # fmt: skip
    assert "replayed" in fit.engine
    assert model.log_evidence(x).mean().item() == pytest.approx(lg.best_evidence(x), abs=0.01)


def test_images_and_amortized_guide():
    digits = pvae.data.load("digits").train
    x = digits.first(300)[0]
    torch.manual_seed(0)
    model, guide = PPCA(x_shape=(8, 8), z_dim=2), FullRank(x_shape=(8, 8), z_dim=2, hidden=())
    trace = poutine.trace(model).get_trace(x)
    assert trace.nodes["x"]["fn"].event_shape == (8, 8)
    fit = pvae.fit(
        model, guide, x, epochs=200, learning_rate=0.02, progress=False,
        scheduler=lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 200),
    )  # fmt: skip
    evidence = model.log_evidence(x).mean().item()
    bound = pvae.elbo(fit.model, fit.guide, x, 50)
    assert bound.mean < evidence + 4 * bound.mc_error
    estimate = pvae.log_likelihood(fit.model, fit.guide, x, 2000)
    assert abs(estimate.mean - evidence) < 4 * estimate.mc_error + 2e-3


def test_wrong_options_raise():
    with pytest.raises(ValueError, match="unknown noise 'full': give one of isotropic, diagonal"):
        PPCA(noise="full")
    with pytest.raises(ValueError, match="expected sizes of at least 1"):
        PPCA(z_dim=0)
