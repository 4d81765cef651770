"""The tolerance of gradients is larger where they are sensitive to rounding."""

import dataclasses

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO

from pvae.engine.recording import record
from pvae.engine.step import eager_step
from pvae.engine.verification import difference

X = torch.randn(5, generator=torch.Generator().manual_seed(0))


def pair(sensitive):
    """A mean of 1, or the difference of two numbers that are a million times larger."""

    def model(x):
        w = pyro.param("w", torch.tensor(1.0))
        loc = (w * 1e6 - (1e6 - 10.0)) / 10 if sensitive else w
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    return model, lambda x: None


@pytest.mark.parametrize("sensitive", [False, True])
@pytest.mark.parametrize(("wrong_by", "passes"), [(1e-4, True), (0.02, None), (0.5, False)])
def test_gradient_tolerance(sensitive, wrong_by, passes):
    loss = Trace_ELBO().loss_and_grads
    model, guide = pair(sensitive)

    def loss_and_grads(x):
        return loss(model, guide, x)

    params = eager_step(loss_and_grads, (X,), {}).params
    recording = record(loss_and_grads, params, [], (X,), {})

    class Wrong:
        def __call__(self, tensors):
            step = recording(tensors)
            return dataclasses.replace(step, gradients=[g * (1 + wrong_by) for g in step.gradients])

    before = [p.detach().clone() for p in params]
    found = difference(Wrong(), [X], loss_and_grads, (X,), {}, [])
    assert (found is None) == (sensitive if passes is None else passes)
    assert all(torch.equal(p, value) for p, value in zip(params, before, strict=True))


@pytest.mark.parametrize(("last", "passes"), [(-0.3, True), (-0.29, False)])
def test_corner_of_a_relu(last, passes):
    """The sign of 0.1 + 0.2 - 0.3 depends on the order of the sum."""
    loss = Trace_ELBO().loss_and_grads

    def model(x):
        w = pyro.param("w", torch.tensor([0.1, 0.2, last]))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(100 * w.sum().relu(), 1.0), obs=x)

    def loss_and_grads(x):
        return loss(model, lambda x: None, x)

    params = eager_step(loss_and_grads, (X,), {}).params
    recording = record(loss_and_grads, params, [], (X,), {})

    class OtherSide:
        def __call__(self, tensors):
            step = recording(tensors)
            gradient = step.gradients[0]
            other = torch.zeros(3) if gradient.any() else torch.full((3,), -100 * X.sum().item())
            return dataclasses.replace(step, gradients=[other])

    found = difference(OtherSide(), [X], loss_and_grads, (X,), {}, [])
    assert found == (None if passes else "the gradient of 'w'")


@pytest.mark.filterwarnings("ignore:Encountered NaN")
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_replay_without_numbers(value):
    loss = Trace_ELBO().loss_and_grads
    model, guide = pair(False)

    def loss_and_grads(x):
        return loss(model, guide, x)

    params = eager_step(loss_and_grads, (X,), {}).params
    recording = record(loss_and_grads, params, [], (X,), {})
    broken = dataclasses.replace(
        recording, run=lambda *given: [out * value for out in recording.run(*given)]
    )
    assert difference(broken, [X], loss_and_grads, (X,), {}, []) == "the loss"
    own = [X * value]
    assert difference(recording, own, loss_and_grads, tuple(own), {}, []) is None  # as Pyro's step
