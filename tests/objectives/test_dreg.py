"""DReG: the gradient of IWAE, with a signal-to-noise ratio that does not vanish as K grows."""

import pytest
from exact import targets as exact
from exact.gaussian_layers import REPARAMETERIZED, Gaussian, Hierarchy
from exact.gradients import assert_unbiased, draw

from pvae import objectives


@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("name", REPARAMETERIZED)
def test_unbiased(name, rows):
    pair = REPARAMETERIZED[name]()
    x = pair.x[:rows]
    target = exact.importance_weighted(pair, x, 2)
    assert_unbiased(objectives.DReG(num_particles=2), pair, x, target)


def test_one_particle_is_sticking_the_landing():
    pair = Hierarchy("up")
    doubly = objectives.DReG(num_particles=1)
    one, landing = (
        draw(objective, pair, pair.x, 20_000) for objective in (doubly, objectives.STL())
    )
    assert_unbiased(doubly, pair, pair.x, exact.elbo(pair, pair.x))
    assert one.variance() == pytest.approx(landing.variance(), rel=1e-6)


def test_signal_to_noise_grows_with_particles():
    pair = Gaussian()
    x = pair.x[:1]
    particles = (4, 16, 64)
    usual, doubly = (
        [draw(cls(k), pair, x, 10_000).signal_to_noise("recognition") for k in particles]
        for cls in (objectives.IWAE, objectives.DReG)
    )
    # IWAE as 1 / sqrt(K), half at each step; DReG as sqrt(K) for large K.
    assert usual[0] > 1.6 * usual[1] > 1.6**2 * usual[2]
    assert doubly[0] < doubly[1] < doubly[2]
    assert doubly[2] > 2 * doubly[0]
