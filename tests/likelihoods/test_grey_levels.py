"""Distributions over grey levels against float64 formulas."""

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from scipy.special import log_softmax
from scipy.stats import logistic

from pvae.likelihoods import GreyCategorical, GreyLevels, GreyLogistic


def grid(levels):
    return torch.arange(levels) / (levels - 1)


def log_mass(loc, scale, levels):
    """Log-masses of all bins in float64, by CDFs below loc and survival functions above it."""
    edges = (np.arange(1, levels) - 0.5) / (levels - 1)
    lower = np.concatenate([[-np.inf], edges])
    upper = np.concatenate([edges, [np.inf]])
    left = logistic.cdf(upper, loc, scale) - logistic.cdf(lower, loc, scale)
    right = logistic.sf(lower, loc, scale) - logistic.sf(upper, loc, scale)
    with np.errstate(divide="ignore"):
        return np.log(np.where(upper < loc, left, np.where(lower > loc, right, left)))


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize("loc", [-0.7, 0.0, 0.31, 1.0, 2.5])
@pytest.mark.parametrize("scale", [0.004, 0.05, 0.6, 20.0])
def test_logistic_log_prob_is_log_mass(loc, scale, levels):
    d = GreyLogistic(torch.tensor(loc), torch.tensor(scale).log(), levels)
    expected = log_mass(np.float32(loc), np.float32(scale), levels)
    actual = d.log_prob(grid(levels)).numpy()
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("loc", "log_scale"), [(0.4, -9.0), (0.4, -2.0), (-50.0, -3.0), (0.5, 40.0)]
)
def test_logistic_masses_sum_to_one(loc, log_scale):
    d = GreyLogistic(torch.tensor(loc), torch.tensor(log_scale), 256)
    torch.testing.assert_close(d.log_prob(grid(256)).logsumexp(0), torch.tensor(0.0))


def test_logistic_log_prob_below_float32_mass():
    # Bins at 100 to 1000 scales from loc, where the mass of a bin is
    # exp(-(distance - half a bin) / scale) (1 - exp(-bin / scale)).
    loc, scale, levels = 0.5, 1e-3, 256
    d = GreyLogistic(torch.tensor(loc), torch.tensor(scale).log(), levels)
    for k in (40, 80, 180, 215):
        distance = abs(k / 255 - loc)
        expected = -(distance - 0.5 / 255) / scale + np.log1p(-np.exp(-1 / 255 / scale))
        actual = d.log_prob(torch.tensor(k / 255)).item()
        assert actual == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loc", [-50.0, 0.2, 0.5, 50.0])
@pytest.mark.parametrize("log_scale", [-9.0, -2.0, 50.0])
def test_logistic_gradients(loc, log_scale):
    def gradients(dtype):
        # Separate parameters per level: gradients summed over levels would cancel.
        at = torch.full((256,), loc, dtype=dtype, requires_grad=True)
        spread = torch.full((256,), log_scale, dtype=dtype, requires_grad=True)
        GreyLogistic(at, spread, 256).log_prob(grid(256).to(dtype)).sum().backward()
        return torch.stack([at.grad, spread.grad]).double()

    single, double = gradients(torch.float32), gradients(torch.float64)
    assert single.isfinite().all()
    torch.testing.assert_close(single, double, rtol=1e-3, atol=1e-3)
    at, spread = (
        torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (loc, log_scale)
    )
    assert torch.autograd.gradcheck(
        lambda a, s: GreyLogistic(a, s, 256).log_prob(grid(256).double()).sum() / 1e6, (at, spread)
    )


@pytest.mark.parametrize(("loc", "scale"), [(0.3, 0.1), (0.95, 0.3), (-0.2, 0.05), (0.5, 1e-3)])
def test_logistic_mean_is_exact(loc, scale):
    d = GreyLogistic(torch.tensor(loc), torch.tensor(scale).log(), 17)
    expected = (np.exp(log_mass(loc, scale, 17)) * np.arange(17) / 16).sum()
    assert d.mean.item() == pytest.approx(expected, abs=1e-6)


def test_logistic_sample_frequencies():
    torch.manual_seed(0)
    d = GreyLogistic(torch.tensor([0.1, 0.8]), torch.tensor([0.2, 0.1]).log(), 5)
    x = d.sample((200_000,))
    assert d.support.check(x).all()
    frequency = (x[..., None] == grid(5)).float().mean(0)
    mass = d.log_prob(grid(5)[:, None]).exp().T
    # Five standard errors of a frequency.
    assert ((frequency - mass).abs() <= 5 * (mass * (1 - mass) / 200_000).sqrt() + 1e-7).all()


def test_categorical_log_prob_mean_and_frequencies():
    torch.manual_seed(0)
    logits = torch.randn(3, 5) * 2
    d = GreyCategorical(logits)
    expected = log_softmax(logits.double().numpy(), -1).T
    actual = d.log_prob(grid(5)[:, None])
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-5, atol=1e-6)
    mass = torch.tensor(expected).exp()
    torch.testing.assert_close(d.mean.double(), (mass * grid(5).double()[:, None]).sum(0))
    x = d.sample((100_000,))
    assert d.support.check(x).all()
    frequency = (x[None] == grid(5)[:, None, None]).double().mean(1)
    assert ((frequency - mass).abs() <= 5 * (mass * (1 - mass) / 100_000).sqrt()).all()


@pytest.mark.parametrize("levels", [2, 3, 17, 256, 65536])
def test_support_accepts_levels(levels):
    k = torch.arange(levels)
    support = GreyLevels(levels)
    assert support.check(k / (levels - 1)).all()
    assert support.check(k * torch.tensor(1 / (levels - 1))).all()
    assert support.check(k.double() / (levels - 1)).all()
    assert not support.check((k + 0.5) / (levels - 1)).any()


def test_support_rejects_other_values():
    outside = torch.tensor([-0.1, 0.5 / 255, 1.1, -1 / 255, 256 / 255, float("nan"), float("inf")])
    assert not GreyLevels(256).check(outside).any()
    assert GreyLevels(256).check(torch.tensor([0, 1, 2], dtype=torch.uint8)).tolist() == [
        True,
        True,
        False,
    ]


def distributions():
    torch.manual_seed(0)
    return [
        GreyCategorical(torch.randn(3, 4, 7)),
        GreyLogistic(torch.randn(3, 4), torch.randn(3, 4) - 1, 7),
    ]


@pytest.mark.parametrize("d", distributions(), ids=lambda d: type(d).__name__)
def test_shapes(d):
    assert d.batch_shape == (3, 4)
    assert d.event_shape == ()
    assert not d.has_rsample
    x = d.sample()
    assert x.shape == (3, 4)
    expanded = d.expand((5, 3, 4))
    assert type(expanded) is type(d)
    assert expanded.sample((2,)).shape == (2, 5, 3, 4)
    torch.testing.assert_close(expanded.log_prob(x), d.log_prob(x).expand(5, 3, 4))
    torch.testing.assert_close(expanded.mean, d.mean.expand(5, 3, 4))
    event = d.to_event(1)
    assert event.event_shape == (4,)
    torch.testing.assert_close(event.log_prob(x), d.log_prob(x).sum(-1))
    # Leading dimensions only in the value, and only in the parameters.
    many = event.expand_by((6,)).sample()
    torch.testing.assert_close(event.log_prob(many)[2], event.log_prob(many[2]))
    assert event.support.check(x).all()


@pytest.mark.parametrize("d", distributions(), ids=lambda d: type(d).__name__)
@pytest.mark.parametrize("bad", [-0.1, 0.5 / 6, 7 / 6])
def test_validation_raises(d, bad):
    x = d.sample()
    x[0, 0] = bad
    with pytest.raises(ValueError, match=r"GreyLevels\(levels=7\)"):
        d.expand((3, 4)).log_prob(x)


def test_nan_parameters_raise():
    nan = torch.tensor([float("nan"), 0.0])
    with pytest.raises(ValueError, match="logits"):
        GreyCategorical(nan, validate_args=True)
    with pytest.raises(ValueError, match="log_scale"):
        GreyLogistic(torch.zeros(2), nan, 256, validate_args=True)


@pytest.mark.parametrize("d", distributions(), ids=lambda d: type(d).__name__)
def test_vectorized_particles_and_unconditioned_plate(d):
    x = d.sample()

    def model(x):
        with pyro.plate("data", len(x)):
            return pyro.sample("x", d.to_event(1), obs=x)

    with pyro.get_param_store().scope():
        elbo = Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1)
        expected = -d.log_prob(x).sum().item()
        assert elbo.loss(model, lambda x: None, x) == pytest.approx(expected, rel=1e-5)
        torch.manual_seed(1)
        drawn = poutine.uncondition(model)(x)
    assert drawn.shape == x.shape
    assert not torch.equal(drawn, x)
    assert d.support.check(drawn).all()
