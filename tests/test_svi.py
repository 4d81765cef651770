"""Recorded steps match Pyro's: random numbers, losses, parameters and buffers."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import callables as kinds
from pairs.recordable import PAIRS, X, assert_same, linear, run
from pyro.infer import (
    RenyiELBO,
    ReweightedWakeSleep,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
    config_enumerate,
)

import pvae


@pytest.mark.parametrize("name", PAIRS)
def test_recorded_steps_match_pyro(name):
    got = run(PAIRS[name], "recorded", 24)
    assert_same(got, run(PAIRS[name], None, 24), 1e-6)
    svi = got[3]
    assert svi.replay.notes == []
    assert svi.replay.replayed == 22
    assert svi.replay.recorded == 2  # one per batch size


@pytest.mark.slow
@pytest.mark.parametrize("name", PAIRS)
def test_two_hundred_captured_steps_match_pyro(name):
    got = run(PAIRS[name], "captured", 200)
    assert_same(got, run(PAIRS[name], None, 200), 2e-4)
    assert got[3].replay.replayed == 198
    assert got[3].replay.notes == []


@pytest.mark.parametrize("name", ["methods", "bernoulli hierarchy"])
def test_captured_steps_match_pyro(name):
    got = run(PAIRS[name], "captured", 24)
    assert_same(got, run(PAIRS[name], None, 24), 1e-4)
    assert got[3].replay.replayed == 22


OBJECTIVES = {
    "particles": lambda: Trace_ELBO(num_particles=3),
    "vectorized": lambda: Trace_ELBO(3, vectorize_particles=True, max_plate_nesting=1),
    "mean field": TraceMeanField_ELBO,
    "graph": TraceGraph_ELBO,
    "renyi": lambda: RenyiELBO(num_particles=3),
    "enumerated": lambda: TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False),
    "wake-sleep": lambda: ReweightedWakeSleep(num_particles=3),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_pyro_objectives(name):
    make = PAIRS["gaussian hierarchy"]
    got = run(make, "recorded", 24, objective=OBJECTIVES[name])
    assert_same(got, run(make, None, 24, objective=OBJECTIVES[name]), 1e-6)


def test_enumeration():
    def make():
        net = linear(2, 3)

        @config_enumerate
        def model(x):
            pyro.module("net", net)
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Categorical(torch.ones(2) / 2))
                pyro.sample("x", dist.Normal(net(torch.eye(2))[z], 1.0).to_event(1), obs=x)

        return model, lambda x: None

    options = {"objective": lambda: TraceEnum_ELBO(max_plate_nesting=1)}
    assert_same(run(make, "recorded", 24, **options), run(make, None, 24, **options), 1e-6)


def test_recording_and_verification_restore_state():
    pyro.set_rng_seed(0)
    model, guide = kinds.make("functions", 0)
    svi = pvae.SVI(model, guide, pyro.optim.SGD({"lr": 0.0}), Trace_ELBO(), engine="recorded")
    other_model, other_guide = kinds.make("functions", 0)
    pyro.set_rng_seed(5)
    svi.step(X)
    after = torch.get_rng_state()
    encoder = guide.__closure__[0].cell_contents
    with pyro.get_param_store().scope():
        plain = pyro.infer.SVI(other_model, other_guide, pyro.optim.SGD({"lr": 0.0}), Trace_ELBO())
        pyro.set_rng_seed(5)
        plain.step(X)
    assert (after == torch.get_rng_state()).all()
    for got, wanted in zip(
        encoder.buffers(), other_guide.__closure__[0].cell_contents.buffers(), strict=True
    ):
        torch.testing.assert_close(got, wanted)


def test_evaluate_loss_changes_no_parameter():
    model, guide = kinds.make("functions", 0)
    svi = pvae.SVI(model, guide, torch.optim.Adam, Trace_ELBO(), engine="recorded")
    svi.step(X)
    before = {k: v.clone() for k, v in pyro.get_param_store()._params.items()}
    svi.evaluate_loss(X)
    for name, value in pyro.get_param_store()._params.items():
        assert torch.equal(value, before[name])


def test_late_parameters():
    def model(x):
        loc = pyro.param("loc", torch.zeros(3))
        if model.more:
            loc = loc + pyro.param("shift", torch.ones(3))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    model.more = False
    svi = pvae.SVI(
        model, lambda x: None, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO(), engine="recorded"
    )
    for number in range(201):
        model.more = number >= 100  # detected by the verification at step 100
        svi.step(X)
    shift = pyro.get_param_store()["shift"]
    assert not torch.equal(shift, torch.ones(3))
