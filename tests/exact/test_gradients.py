"""The gradient test passes for Pyro's unbiased estimators and fails for biased ones."""

import pyro.infer.rws
import pytest
import torch
from exact import targets as exact
from exact.belief_network import Belief
from exact.gaussian_layers import Gaussian, Hierarchy
from exact.gradients import assert_unbiased, draw, imprecise, misses
from pyro.infer import (
    ReweightedWakeSleep,
    Trace_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
)

UNBIASED = {
    "Trace_ELBO of a Gaussian": (Trace_ELBO, Gaussian),
    "Trace_ELBO of a hierarchy": (Trace_ELBO, lambda: Hierarchy("up")),
    "Trace_ELBO of a hierarchy with one score": (
        Trace_ELBO,
        lambda: Hierarchy("up", scored=("z1",)),
    ),
    "Trace_ELBO of a belief network": (Trace_ELBO, Belief),
    "TraceGraph_ELBO of a belief network": (TraceGraph_ELBO, Belief),
    "TraceMeanField_ELBO of a Gaussian": (TraceMeanField_ELBO, Gaussian),
    "TraceMeanField_ELBO from above": (TraceMeanField_ELBO, lambda: Hierarchy("down")),
}


@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("name", UNBIASED)
def test_pyro_estimators_unbiased(name, rows):
    objective, make = UNBIASED[name]
    pair = make()
    x = pair.x[:rows]
    assert_unbiased(objective(), pair, x, exact.elbo(pair, x))


def test_missing_dependence_of_divergence_found():
    pair = Hierarchy("up")
    with pytest.warns(UserWarning, match="mean field restriction"):
        draws = draw(TraceMeanField_ELBO(), pair, pair.x, 40_000)
    target = exact.elbo(pair, pair.x)
    assert misses(draws, {"loss": target.value, **target.gradients(pair)})


def reweighted(monkeypatch):
    # It puts a hook on the loss that reads the gradient, which cannot be recorded.
    monkeypatch.setattr(pyro.infer.rws, "warn_if_nan", lambda *_: None)
    return ReweightedWakeSleep(num_particles=2, vectorize_particles=False)


@pytest.mark.parametrize("make", [Gaussian, Belief])
def test_pyro_reweighted_wake_sleep_with_one_datum(make, monkeypatch):
    pair = make()
    x = pair.x[:1]
    target = exact.reweighted_wake_sleep(pair, x, 2, 1.0)
    gradients = target.gradients(pair)
    draws = draw(
        reweighted(monkeypatch), pair, x, 10**6, enough=lambda d: not imprecise(d, gradients)
    )
    assert not imprecise(draws, gradients)
    assert not misses(draws, gradients)


@pytest.mark.parametrize("make", [Gaussian, Belief])
def test_whole_batch_weights_found(make, monkeypatch):
    """Pyro normalizes the weights jointly over all rows."""
    pair = make()
    target = exact.reweighted_wake_sleep(pair, pair.x, 2, 1.0)
    draws = draw(reweighted(monkeypatch), pair, pair.x, 40_000)
    missed = misses(draws, target.gradients(pair), within=8.0)
    assert any("generative" in name for name in missed)
    assert any("recognition" in name for name in missed)


class Louder(Trace_ELBO):
    """An ELBO whose guide gradients are 6 % too large."""

    def loss_and_grads(self, model, guide, *args, **kwargs):
        loss = super().loss_and_grads(model, guide, *args, **kwargs)
        for parameter in guide.__self__.recognition.parameters():
            parameter.grad = parameter.grad * 1.06
        return loss


def test_small_bias_found():
    pair = Gaussian()
    with pytest.raises(AssertionError, match="standard errors"):
        assert_unbiased(Louder(), pair, pair.x, exact.elbo(pair, pair.x))


def test_constant_draws_raise():
    pair = Belief()
    with pytest.raises(AssertionError, match="of the gradient"):
        assert_unbiased(Trace_ELBO(), pair, pair.x, exact.elbo(pair, pair.x), count=1000)


def test_draws_match_pyro():
    """The vectorized draws have the mean and standard deviation of separate steps."""
    pair, objective = Belief(), Trace_ELBO()
    many = draw(objective, pair, pair.x, 20_000)
    one_by_one = []
    for _ in range(400):
        pair.recognition.zero_grad()
        objective.loss_and_grads(pair.model, pair.guide, pair.x)
        one_by_one.append(pair.recognition.bias2.grad.clone())
    found = torch.cat(one_by_one)
    name = "recognition.bias2"
    assert abs(found.mean() - many.mean[name]) < 4 * found.std() / 20
    assert found.std().item() == pytest.approx(many.std[name].item(), rel=0.15)
