"""Sticking the landing: the ELBO's gradient, and no variance if q is the posterior."""

import pytest
import torch
from exact import targets as exact
from exact.gaussian_layers import REPARAMETERIZED, Gaussian, Hierarchy
from exact.gradients import assert_unbiased, draw

from pvae import objectives


@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("name", REPARAMETERIZED)
def test_unbiased(name, rows):
    pair = REPARAMETERIZED[name]()
    x = pair.x[:rows]
    assert_unbiased(objectives.STL(), pair, x, exact.elbo(pair, x))


def test_mean_over_particles():
    pair = Hierarchy("up")
    assert_unbiased(objectives.STL(num_particles=3), pair, pair.x, exact.elbo(pair, pair.x))


def test_no_variance_at_posterior():
    pair = Gaussian()
    pair.make_guide_exact()
    landing, usual = (
        draw(objective, pair, pair.x, 1000) for objective in (objectives.STL(), objectives.ELBO())
    )
    assert landing.variance("recognition") < 1e-24
    assert usual.variance("recognition") > 1.0


def test_less_variance_near_posterior():
    pair = Gaussian()
    pair.make_guide_exact()
    with torch.no_grad():
        for parameter in pair.recognition.parameters():
            parameter += 0.1
    landing, usual = (
        draw(objective, pair, pair.x, 20_000) for objective in (objectives.STL(), objectives.ELBO())
    )
    assert 3 * landing.variance("recognition") < usual.variance("recognition")
    # The model's gradients are the same.
    torch.testing.assert_close(
        landing.variance("generative"), usual.variance("generative"), rtol=1e-6, atol=0.0
    )
