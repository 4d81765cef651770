"""When a recording serves, when it goes stale and is found out, and what cannot be recorded."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs_to_record import X, assert_same, linear, run
from pyro.infer import Trace_ELBO
from torch import nn

import pvae

# Ways to go stale


class Changing(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = linear(3, 3)
        self.factor = 1.0
        self.deep = False
        self.extra = []
        self.dropout = nn.Dropout(0.5)

    def model(self, x):
        pyro.module("net", self.net)
        loc = self.net(self.dropout(x)) * self.factor
        if self.deep:
            loc = loc.tanh()
        for shift in self.extra:
            loc = loc + shift
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(self, x):
        pass


def make_changing():
    pair = Changing()
    return pair.model, pair.guide


def set_at(step, **attributes):
    def change(number, model, guide):
        if number == step:
            for key, value in attributes.items():
                setattr(model.__self__, key, value)

    return change


def evaluate_at(step):
    def change(number, model, guide):
        if number == step:
            model.__self__.eval()

    return change


@pytest.mark.parametrize(
    "change",
    [set_at(101, factor=2.0), set_at(101, deep=True), set_at(101, extra=[0.5])],
    ids=["a number", "a branch", "a list that grows"],
)
def test_what_python_hides_is_found_by_comparing(change):
    wanted = run(make_changing, None, 140, change=change)
    got = run(make_changing, "recorded", 140, change=change)
    assert_same(got, wanted, 1e-6)
    assert "was not what Pyro gives any more: the step was recorded again" in got[3].replay.notes[0]


def test_a_graph_that_is_never_compared_would_go_stale(monkeypatch):
    monkeypatch.setattr(pvae.replay.Replay, "_due", lambda self, entry, number: False)
    change = set_at(101, factor=2.0)
    wanted = run(make_changing, None, 140, change=change)
    got = run(make_changing, "recorded", 140, change=change)
    with pytest.raises(AssertionError):
        assert_same(got, wanted, 1e-3)


def test_a_mode_is_part_of_the_key():
    wanted = run(make_changing, None, 40, change=evaluate_at(17))
    got = run(make_changing, "recorded", 40, change=evaluate_at(17))
    assert_same(got, wanted, 1e-6)
    assert got[3].replay.recorded == 4
    assert got[3].replay.notes == []


def test_a_program_that_flips_a_coin_is_eager():
    def make():
        import random

        net = linear(3, 3)
        coin = random.Random(0)

        def model(x):
            pyro.module("net", net)
            with pyro.plate("data", len(x)):
                scale = 1.0 if coin.random() < 0.5 else 2.0
                pyro.sample("x", dist.Normal(net(x), scale).to_event(1), obs=x)

        return model, lambda x: None

    *_, svi = run(make, "recorded", 200)
    assert any("is not what Pyro gives" in note for note in svi.replay.notes)


# What cannot be recorded


def test_control_flow_that_reads_a_value_is_eager_and_named_with_its_line():
    def make():
        net = linear(3, 3)

        def model(x):
            pyro.module("net", net)
            loc = net(x)
            if loc.mean() > 0:
                loc = loc * 2
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

        make.line = model.__code__.co_firstlineno + 3
        return model, lambda x: None

    got = run(make, "recorded", 24)
    assert_same(got, run(make, None, 24), 0.0)
    (note,) = got[3].replay.notes
    assert f"test_replay.py:{make.line}: __bool__ reads a value" in note
    assert got[3].replay.replayed == 0


def test_arguments_that_are_not_known_to_stay_the_same_are_eager():
    def model(x, options):
        loc = pyro.param("loc", torch.zeros(3))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc * options["factor"], 1.0).to_event(1), obs=x)

    svi = pvae.SVI(
        model, lambda x, o: None, pyro.optim.SGD({"lr": 1e-3}), Trace_ELBO(), engine="recorded"
    )
    svi.step(X, {"factor": 2.0})
    assert "arguments other than tensors, numbers and texts" in svi.replay.notes[0]


def test_a_number_as_argument_is_part_of_the_key():
    def model(x, factor, *, shift=0.0):
        loc = pyro.param("loc", torch.ones(3))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc * factor + shift, 1.0).to_event(1), obs=x)

    def guide(x, factor, *, shift=0.0):
        pass

    losses = {}
    for engine in ("eager", "recorded"):
        with pyro.get_param_store().scope():
            svi = pvae.SVI(model, guide, pyro.optim.SGD({"lr": 1e-3}), Trace_ELBO(), engine)
            losses[engine] = [svi.step(X, f, shift=s) for f in (1.0, 2.0) for s in (0.0, 3.0)]
    assert losses["recorded"] == pytest.approx(losses["eager"], rel=1e-6)
    assert svi.replay.recorded == 4


def test_the_weight_of_a_step_is_part_of_the_key():
    moved = {}
    for engine in ("eager", "recorded"):
        with pyro.get_param_store().scope():
            model, guide = make_changing()
            with torch.no_grad():
                for parameter in model.__self__.parameters():
                    parameter.fill_(0.1)
            model.__self__.eval()
            svi = pvae.SVI(model, guide, pyro.optim.SGD({"lr": 1e-3}), Trace_ELBO(), engine)
            for weight in (1.0, 1.0, 1.0, 0.1, 0.1, 0.1):
                svi.step_tensor((X,), weight=weight)
            moved[engine] = model.__self__.net.weight.detach().clone()
    torch.testing.assert_close(moved["recorded"], moved["eager"])
