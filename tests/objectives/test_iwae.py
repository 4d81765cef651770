"""The importance-weighted bound: unbiased gradients, a value that rises to the evidence."""

import pytest
from exact import targets as exact
from exact.gaussian_layers import REPARAMETERIZED, Gaussian
from exact.gradients import assert_unbiased, draw

from pvae import objectives


@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("name", REPARAMETERIZED)
def test_unbiased(name, rows):
    pair = REPARAMETERIZED[name]()
    x = pair.x[:rows]
    target = exact.importance_weighted(pair, x, 2)
    assert_unbiased(objectives.IWAE(num_particles=2), pair, x, target)


def test_one_particle_is_elbo():
    pair = Gaussian()
    assert_unbiased(objectives.IWAE(num_particles=1), pair, pair.x, exact.elbo(pair, pair.x))


def test_rises_to_evidence():
    pair = Gaussian()
    evidence = pair.evidence(pair.x).sum().item()
    draws = [draw(objectives.IWAE(num_particles=k), pair, pair.x, 4000) for k in (1, 2, 8, 64)]
    bounds = [-one.mean["loss"].item() for one in draws]
    errors = [one.std_error("loss").item() for one in draws]
    for k in range(3):
        assert bounds[k + 1] - bounds[k] > 4 * (errors[k] ** 2 + errors[k + 1] ** 2) ** 0.5
    for bound, error in zip(bounds, errors, strict=True):
        assert bound < evidence + 4 * error
    assert bounds[-1] == pytest.approx(evidence, abs=0.4)
