"""The small pairs and their exact objectives, recomputed in other ways."""

import pyro
import pytest
import torch
from exact import targets as exact
from exact.belief_network import Belief
from exact.gaussian_layers import REPARAMETERIZED, Gaussian
from exact.small_pairs import gauss_hermite, states
from pyro import poutine

PAIRS = REPARAMETERIZED | {"belief": Belief}


@pytest.fixture(params=PAIRS)
def pair(request):
    return PAIRS[request.param]()


def test_weights_average_to_evidence(pair):
    at = pair.points(pair.x)
    average = (at.mass * (at.log_joint - at.log_guide).exp()).sum(-1).log()
    torch.testing.assert_close(average, pair.evidence(pair.x), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(at.mass.sum(-1), torch.ones(7).double())


def test_bounds_rise_to_evidence(pair):
    bounds = [-exact.importance_weighted(pair, pair.x, k).value.item() for k in (1, 2)]
    assert bounds[0] == pytest.approx(-exact.elbo(pair, pair.x).value.item())
    assert bounds[0] + 1 < bounds[1] < pair.evidence(pair.x).sum().item() - 0.5


def test_densities_within_another_plate(pair):
    """Each point is one element of an outer plate."""
    values = _values(pair)
    at = pair.points(pair.x)
    store = {name: value.transpose(0, 1) for name, value in values.items()}
    with pyro.plate("outer", at.mass.shape[1], dim=-2):
        guide = poutine.trace(poutine.condition(pair.guide, store)).get_trace(pair.x)
        model = poutine.trace(poutine.condition(pair.model, store)).get_trace(pair.x)
    for trace, table in ((guide, at.guide), (model, {**at.prior, "x": at.likelihood})):
        trace.compute_log_prob()
        for name, log_prob in table.items():
            found = trace.nodes[name]["log_prob"]
            torch.testing.assert_close(found.expand(log_prob.T.shape), log_prob.T)


def _values(pair):
    """Values of the latents at the points, each (rows, points, ...), computed independently."""
    q, x = pair.recognition, pair.x
    if isinstance(pair, Belief):
        z = states(3).expand(7, 8, 3)
        return {"z1": z[..., :2], "z2": z[..., 2:]}
    noise, _ = gauss_hermite(pair.nodes, 1 if isinstance(pair, Gaussian) else 2)
    first = (x @ q.slope + q.bias)[:, None] + q.log_scale.exp() * noise[:, 0]
    if isinstance(pair, Gaussian):
        return {"z": first}
    loc = q.then_slope * first + q.then_bias
    if pair.order == "down":
        loc = loc + (x @ q.then_data)[:, None]
    second = loc + q.then_log_scale.exp() * noise[:, 1]
    return {"z1": first, "z2": second} if pair.order == "up" else {"z2": first, "z1": second}


def test_dreams_match_programs(pair):
    mass, log_guide = pair.dreams()
    rows = 100_000
    with torch.no_grad():
        dream = poutine.trace(poutine.uncondition(pair.model)).get_trace(pair.x.new_zeros(rows, 3))
        drawn = poutine.trace(poutine.replay(pair.guide, trace=dream)).get_trace(
            dream.nodes["x"]["value"]
        )
        drawn.compute_log_prob()
    found = sum(site["log_prob"] for site in drawn.nodes.values() if "log_prob" in site)
    assert mass.sum().item() == pytest.approx(1.0)
    difference = found.mean() - (mass * log_guide).sum()
    assert abs(difference) < 4 * found.std() / rows**0.5


def test_gaussian_bound_is_closed_form():
    pair = Gaussian()
    closed = pair.expected_likelihood(pair.x) - pair.kl(pair.x)
    assert -exact.elbo(pair, pair.x).value.item() == pytest.approx(closed.sum().item())
    halved = pair.expected_likelihood(pair.x) - 0.5 * pair.kl(pair.x)
    assert -exact.elbo(pair, pair.x, z=0.5).value.item() == pytest.approx(halved.sum().item())


def test_exact_guide_bound_is_evidence():
    pair = Gaussian()
    pair.make_guide_exact()
    target = exact.elbo(pair, pair.x)
    assert -target.value.item() == pytest.approx(pair.evidence(pair.x).sum().item())
    assert target.gradients(pair)["recognition.slope"].abs().max() < 1e-9


def test_guides_differ_from_posterior(pair):
    gap = pair.evidence(pair.x).sum() + exact.elbo(pair, pair.x).value
    assert 1.0 < gap < 7.0  # nats, summed over 7 data


@pytest.mark.parametrize("name", ["gaussian", "up", "down"])
def test_quadrature_converged(name):
    pair = PAIRS[name]()
    nodes = (pair.nodes, pair.nodes + (20 if name == "gaussian" else 2))
    found = []
    for pair.nodes in nodes:
        found += [
            (
                exact.importance_weighted(pair, pair.x, 2).gradients(pair),
                exact.reweighted_wake_sleep(pair, pair.x, 2, 1.0).gradients(pair),
            )
        ]
    for one, other in zip(*found, strict=True):
        for key, gradient in one.items():
            assert (gradient - other[key]).norm() < 1e-3 * gradient.norm(), key
