"""Gaussian likelihoods with correlated dimensions, against scipy."""

import numpy as np
import pytest
import torch
from scipy import stats

import pvae
from pvae import likelihoods


@pytest.mark.parametrize("x_shape", [(4,), (2, 2)])
@pytest.mark.parametrize("name", ["gaussian_low_rank", "gaussian_full"])
def test_density_draws_and_mean(name, x_shape):
    likelihood = likelihoods.get(name, x_shape)
    torch.manual_seed(0)
    output, x = torch.randn(3, likelihood.outputs, *x_shape), torch.randn(3, *x_shape)
    fn = likelihood(output)
    assert (fn.batch_shape, fn.event_shape) == ((3,), x_shape)
    flat = output.flatten(2).double()
    loc = flat[:, 0]
    if name == "gaussian_full":
        raw = flat[:, 1:]
        scale = pvae.nn.positive(raw.diagonal(dim1=1, dim2=2), floor=1e-3)
        factor = scale[..., None] * (raw.tril(-1) + torch.eye(4))
        covariance = factor @ factor.mT
    else:
        scale = pvae.nn.positive(flat[:, 1], floor=1e-3)[..., None]
        factor = flat[:, 2:].mT
        covariance = scale * (factor @ factor.mT + torch.eye(4)) * scale.mT
    for i in range(3):
        exact = stats.multivariate_normal(loc[i].numpy(), covariance[i].numpy())
        value = fn.log_prob(x)[i].item()
        assert value == pytest.approx(exact.logpdf(x[i].flatten().numpy()), rel=1e-4)
    torch.testing.assert_close(fn.mean.flatten(1).double(), loc)
    draws = fn.sample((40_000,)).flatten(2)
    for i in range(3):
        found = np.cov(draws[:, i].numpy().T)
        np.testing.assert_allclose(found, covariance[i], atol=0.05 * covariance[i].abs().max())
    assert fn.expand((2, 3)).sample().shape == (2, 3, *x_shape)


@pytest.mark.parametrize("name", ["gaussian_low_rank", "gaussian_full"])
@pytest.mark.parametrize("extreme", [-50.0, 0.0, 50.0])
def test_finite_at_extreme_outputs(name, extreme):
    likelihood = likelihoods.get(name, (4,))
    output = torch.full((2, likelihood.outputs, 4), extreme, requires_grad=True)
    log_prob = likelihood(output).log_prob(torch.randn(2, 4))
    assert log_prob.isfinite().all()
    log_prob.sum().backward()
    assert output.grad.isfinite().all()


@pytest.mark.parametrize("name", ["gaussian_low_rank", "gaussian_full"])
def test_learns_the_correlation_of_pixels(name):
    torch.manual_seed(0)
    x = torch.randn(300, 1, 1) + 0.1 * torch.randn(300, 2, 2)
    sizes = {"x_shape": (2, 2), "z_dim": 1, "hidden": 8}
    bounds = {}
    for likelihood in (name, "gaussian_pixel_scale"):
        torch.manual_seed(1)
        model, guide = (
            pvae.models.VAE(**sizes, likelihood=likelihood),
            pvae.guides.MeanField(**sizes),
        )
        fit = pvae.fit(model, guide, x, epochs=60, learning_rate=0.01, progress=False)
        bounds[likelihood] = pvae.elbo(fit.model, fit.guide, x, 10).mean
        assert "replayed" in fit.engine
        assert pvae.reconstruct(fit.model, fit.guide, x[:3]).shape == (3, 2, 2)
    assert bounds[name] > bounds["gaussian_pixel_scale"]


def test_rank_is_checked():
    with pytest.raises(ValueError, match="rank is 0"):
        likelihoods.get("gaussian_low_rank", (4,), rank=0)
