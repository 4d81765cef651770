"""The ELBO: all forms are unbiased."""

import pytest
import torch
from exact import targets as exact
from exact.gaussian_layers import REPARAMETERIZED, Gaussian, Hierarchy
from exact.gradients import assert_unbiased, draw

from pvae import objectives

ROWS = pytest.mark.parametrize("rows", [1, 7])
KL = pytest.mark.parametrize("kl", ["monte_carlo", "analytic"])


@ROWS
@KL
@pytest.mark.parametrize("name", REPARAMETERIZED)
def test_unbiased(name, kl, rows):
    pair = REPARAMETERIZED[name]()
    x = pair.x[:rows]
    assert_unbiased(objectives.ELBO(kl=kl), pair, x, exact.elbo(pair, x))


@ROWS
def test_mean_over_particles(rows):
    pair = Hierarchy("up")
    x = pair.x[:rows]
    assert_unbiased(objectives.ELBO(num_particles=3), pair, x, exact.elbo(pair, x))


@ROWS
@KL
def test_beta_scales_divergences(kl, rows):
    pair = Hierarchy("down")
    x = pair.x[:rows]
    both = exact.elbo(pair, x, z1=0.5, z2=0.5)
    assert_unbiased(objectives.ELBO(kl=kl, beta=0.5), pair, x, both)
    top = exact.elbo(pair, x, z2=2.0)
    assert_unbiased(objectives.ELBO(kl=kl, beta=2.0, sites=["z2"]), pair, x, top)


@ROWS
@pytest.mark.parametrize("over", ["datum", "batch"])
@pytest.mark.parametrize("share", [0.9, 1.1])
def test_free_bits(share, over, rows):
    """Free bits slightly below and above the mean divergence."""
    pair = Gaussian()
    x = pair.x[:rows]
    floor = share * pair.kl(x).mean().item()
    if rows > 1:
        assert pair.kl(x).min() < floor < pair.kl(x).max()
    objective = objectives.ELBO(kl="analytic", free_bits=floor, free_bits_over=over)
    assert_unbiased(objective, pair, x, exact.free_bits(pair, x, floor, over))


def test_analytic_kl_reduces_variance():
    pair = Gaussian()
    sampled, closed = (
        draw(objectives.ELBO(kl=kl), pair, pair.x, 20_000) for kl in ("monte_carlo", "analytic")
    )
    assert closed.variance() < sampled.variance()
    # The prior's gradients come only from the divergence.
    assert closed.std["generative.z_log_scale"] < 1e-12


def test_batch_gradient_is_sum_over_rows():
    pair = Hierarchy("down")
    many = draw(objectives.ELBO(), pair, pair.x, 20_000)
    single = [draw(objectives.ELBO(), pair, x[None], 20_000, seed=i) for i, x in enumerate(pair.x)]
    for name, mean in many.mean.items():
        together = sum(one.mean[name] for one in single)
        error = sum((one.std_error(name) ** 2 for one in single), many.std_error(name) ** 2) ** 0.5
        assert ((mean - together).abs() <= 4 * error + 1e-9).all(), name
        spread = sum(one.std[name] ** 2 for one in single) ** 0.5
        torch.testing.assert_close(many.std[name], spread, rtol=0.1, atol=1e-9)
