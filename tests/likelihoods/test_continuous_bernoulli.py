"""The continuous Bernoulli against float64 formulas, for small and large logits."""

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from pvae.likelihoods import LogitContinuousBernoulli

LOGITS = np.concatenate(
    [np.linspace(-50, 50, 101), np.linspace(-0.5, 0.5, 40), [-1e-4, -1e-8, 1e-8, 1e-4]]
).astype(np.float32)


def density(a, x):
    """p(x) = a exp(a x) / (exp(a) - 1), computed stably for either sign of a."""
    if a > 0:
        return density(-a, 1 - x)
    return 1.0 if a == 0 else a * np.exp(a * x) / np.expm1(a)


@pytest.mark.parametrize("x", [0.0, 0.1, 0.5, 0.93, 1.0])
def test_log_prob_matches_formula(x):
    x32 = torch.tensor(x)
    actual = LogitContinuousBernoulli(torch.tensor(LOGITS)).log_prob(x32).numpy()
    expected = [np.log(density(float(a), float(x32))) for a in LOGITS]
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("a", [-50.0, -3.0, -0.31, -0.29, 0.0, 1e-4, 0.29, 0.31, 2.0, 50.0])
def test_quadrature_of_density_and_mean(a):
    d = LogitContinuousBernoulli(torch.tensor(a, dtype=torch.float64))

    def p(x):
        return d.log_prob(torch.tensor(x, dtype=torch.float64)).exp().item()

    assert quad(p, 0, 1, epsabs=1e-11)[0] == pytest.approx(1, abs=1e-9)
    assert quad(lambda x: x * p(x), 0, 1)[0] == pytest.approx(d.mean.item(), abs=1e-9)
    single = LogitContinuousBernoulli(torch.tensor(a)).mean.item()
    assert single == pytest.approx(d.mean.item(), abs=2e-6)


def test_gradient_is_x_minus_mean():
    # An identity of the exponential family, at all logits including zero and both thresholds.
    logits = torch.tensor(np.append(LOGITS, [0.0, 0.3, -0.3]), dtype=torch.float32)
    logits.requires_grad_()
    d = LogitContinuousBernoulli(logits)
    d.log_prob(torch.tensor(0.7)).sum().backward()
    torch.testing.assert_close(logits.grad, 0.7 - d.mean.detach(), rtol=0, atol=5e-6)
    (gradient,) = torch.autograd.grad(LogitContinuousBernoulli(logits).mean.sum(), logits)
    assert gradient.isfinite().all()
    assert (gradient >= 0).all()


@pytest.mark.parametrize("a", [-50.0, -2.0, -0.01, 0.0, 0.01, 0.2, 2.0, 50.0])
def test_quantiles_of_samples(a):
    torch.manual_seed(0)
    x = LogitContinuousBernoulli(torch.tensor(a)).sample((100_000,)).double().numpy()
    assert x.min() >= 0
    assert x.max() <= 1
    for q in (0.03, 0.2, 0.5, 0.8, 0.97):
        cdf = quad(lambda t: density(a, t), 0, q)[0]
        assert np.mean(x <= q) == pytest.approx(cdf, abs=5 * np.sqrt(cdf * (1 - cdf) / 1e5) + 1e-9)


@pytest.mark.parametrize("a", [-30.0, -0.031, -0.029, -1e-3, 0.0, 1e-3, 0.029, 0.031, 4.0, 30.0])
def test_samples_are_reparameterized(a):
    # For a fixed uniform, dx/da = -(dF/da) / p; here by finite differences in float64.
    def draw(at):
        torch.manual_seed(0)
        return LogitContinuousBernoulli(at).rsample((1000,))

    at = torch.tensor(a, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(draw(at).sum(), at)
    step = 1e-5
    with torch.no_grad():
        difference = (draw(at + step) - draw(at - step)).sum() / (2 * step)
    assert gradient.item() == pytest.approx(difference.item(), rel=1e-4)
    single = torch.tensor(a, requires_grad=True)
    assert torch.autograd.grad(draw(single).sum(), single)[0].isfinite()


def test_shapes_and_validation():
    d = LogitContinuousBernoulli(torch.zeros(3, 4))
    assert d.has_rsample
    expanded = d.expand((5, 3, 4))
    assert type(expanded) is LogitContinuousBernoulli
    assert expanded.to_event(1).log_prob(torch.full((3, 4), 0.5)).shape == (5, 3)
    assert expanded.rsample((2,)).shape == (2, 5, 3, 4)
    with pytest.raises(ValueError, match="support"):
        expanded.log_prob(torch.full((3, 4), 1.5))
    with pytest.raises(ValueError, match="logits"):
        LogitContinuousBernoulli(torch.tensor(float("nan")), validate_args=True)
