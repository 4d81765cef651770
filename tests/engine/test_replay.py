"""Cache keys and verification of recordings, and programs that cannot be recorded."""

import random
from types import SimpleNamespace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs.recordable import X, assert_same, linear, make_changing, run
from pyro.infer import Trace_ELBO
from pyro.poutine.messenger import Messenger

import pvae

# Stale recordings

FACTOR = 1.0


class Trainer:
    """A user's class that holds a pair and counts its steps."""

    def __init__(self):
        self.net, self.factor, self.steps = linear(3, 3), 1.0, 0

    def model(self, x):
        pyro.module("net", self.net)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(self.loc(x), 1.0).to_event(1), obs=x)

    def loc(self, x):
        return self.net(x) * self.factor

    def guide(self, x):
        pass


def make_trainer():
    pair = Trainer()
    return pair.model, pair.guide


def make_closure():
    net, factor = linear(3, 3), 1.0

    def model(x):
        pyro.module("net", net)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(net(x) * factor * FACTOR, 1.0).to_event(1), obs=x)

    def double():
        nonlocal factor
        factor = 2.0

    model.double = double
    return model, lambda x: None


def set_at(step, **attributes):
    def change(number, model, guide):
        if number == step:
            for key, value in attributes.items():
                setattr(model.__self__, key, value)

    return change


def grow_at(step):
    def change(number, model, guide):
        if number >= step:
            model.__self__.extra.append(0.1)

    return change


def evaluate_at(step):
    def change(number, model, guide):
        if number == step:
            model.__self__.eval()

    return change


def hide_at(step):
    def change(number, model, guide):
        if number == step:
            model.__self__.hidden()["factor"] = 2.0

    return change


def double_at(step):
    def change(number, model, guide):
        if number == step:
            model.double()

    return change


def set_global_at(step):
    def change(number, model, guide):
        model.__globals__["FACTOR"] = 1.0 if number < step else 2.0

    return change


def never_compare(monkeypatch):
    monkeypatch.setattr(pvae.engine.replay.Replay, "_due", lambda *given: False)


@pytest.mark.parametrize(
    ("make", "change"),
    [
        (make_changing, set_at(17, factor=2.0)),
        (make_changing, set_at(17, deep=True)),
        (make_changing, grow_at(17)),
        (make_changing, evaluate_at(17)),
        (make_trainer, set_at(17, factor=2.0)),
        (make_closure, double_at(17)),
        (make_closure, set_global_at(17)),
    ],
    ids=["number", "branch", "list that grows", "mode", "own object", "closure", "global"],
)
def test_captured_values_in_cache_key(make, change, monkeypatch):
    never_compare(monkeypatch)
    wanted = run(make, None, 40, change=change)
    got = run(make, "recorded", 40, change=change)
    assert_same(got, wanted, 1e-6)
    assert got[3].replay.replayed >= 13
    assert got[3].replay.notes == []


def test_unnamed_values_not_in_cache_key():
    def count(number, model, guide):
        model.__self__.steps += 1

    got = run(make_trainer, "recorded", 24, change=count)
    assert_same(got, run(make_trainer, None, 24, change=count), 1e-6)
    assert got[3].replay.replayed == 22


class Counting(Trainer):
    """Counts its calls and anneals with the count."""

    def loc(self, x):
        self.steps += 1
        return self.net(x) * min(1.0, self.steps / 100)


def test_call_counting_pair_stays_eager():
    def make():
        pair = Counting()
        return pair.model, pair.guide

    got = run(make, "recorded", 140)
    assert_same(got, run(make, None, 140), 0.0)
    assert got[3].engine == "eager: all 140 steps are Pyro's own"
    assert got[3].notes[0].startswith("steps are eager: the programs update 'steps' on each call")
    assert (
        got[3].notes[1].startswith("steps are eager: 65 of 65 steps had a cache key of their own")
    )


def test_ever_new_batch_sizes_are_eager():
    def model(x):
        loc = pyro.param("loc", torch.zeros(3))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    svi = pvae.SVI(model, lambda x: None, torch.optim.SGD, Trace_ELBO())
    for size in range(1, 80):
        svi.step(X[:size])
    assert "65 of 65 steps had a cache key of their own" in svi.notes[0]


def test_hidden_state_found_by_verification():
    wanted = run(make_changing, None, 140, change=hide_at(101))
    got = run(make_changing, "recorded", 140, change=hide_at(101))
    assert_same(got, wanted, 1e-6)
    assert "differed from Pyro's, so the step was recorded again" in got[3].replay.notes[0]


def test_unverified_recording_goes_stale(monkeypatch):
    never_compare(monkeypatch)
    wanted = run(make_changing, None, 140, change=hide_at(101))
    got = run(make_changing, "recorded", 140, change=hide_at(101))
    with pytest.raises(AssertionError):
        assert_same(got, wanted, 1e-3)


def test_python_random_branch_is_eager():
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
    assert any("differs from Pyro's" in note for note in svi.replay.notes)


@pytest.mark.parametrize("draw", [random.random, np.random.rand], ids=["python", "numpy"])
def test_random_numbers_of_python_and_numpy(draw):
    def make():
        random.seed(0)
        np.random.seed(0)
        net = linear(3, 3)

        def model(x):
            pyro.module("net", net)
            loc = net(x + (0.1 if draw() < 0.5 else 0.0))
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

        return model, lambda x: None

    got = run(make, "recorded", 24)
    assert_same(got, run(make, None, 24), 0.0)
    assert "draws from Python's or NumPy's random numbers" in got[3].replay.notes[0]


# Programs that cannot be recorded


def test_array_of_tensor_values():
    def make():
        net = linear(3, 3)

        def model(x):
            pyro.module("net", net)
            loc = net(x)
            if loc.detach().numpy().mean() > 0:
                loc = loc * 2
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

        make.line = model.__code__.co_firstlineno + 3
        return model, lambda x: None

    got = run(make, "recorded", 24)
    assert_same(got, run(make, None, 24), 0.0)
    (note,) = got[3].replay.notes
    assert f"test_replay.py:{make.line}: numpy reads the values of a tensor" in note
    assert got[3].replay.replayed == 0


def test_unknown_arguments_are_eager():
    def model(x, net):
        loc = pyro.param("loc", torch.zeros(3))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc * net.weight[0].detach(), 1.0).to_event(1), obs=x)

    optim = pyro.optim.SGD({"lr": 1e-3})
    svi = pvae.SVI(model, lambda x, net: None, optim, Trace_ELBO(), engine="recorded")
    svi.step(X, linear(3, 3))
    assert "arguments other than tensors, numbers, strings" in svi.replay.notes[0]


def test_handlers_may_note_their_calls():
    """What a handler around a program counts in itself is no part of the key."""

    class Counting(Messenger):
        def __init__(self):
            super().__init__()
            self.seen = 0

        def _pyro_sample(self, msg):
            self.seen += 1

    def make():
        net, counting = linear(3, 3), Counting()

        def model(x):
            pyro.module("net", net)
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(net(x), 1.0).to_event(1), obs=x)

        return counting(model), lambda x: None

    got = run(make, "recorded", 24)
    assert_same(got, run(make, None, 24), 1e-6)
    assert got[3].replay.replayed >= 20


@pytest.mark.parametrize("kind", [dict, SimpleNamespace])
def test_containers_as_arguments(kind):
    """Tensors in them are inputs of the recording, and all other values belong to its key."""

    def model(x, options):
        values = options if kind is dict else vars(options)
        loc = pyro.param("loc", torch.ones(3)) * values["factor"] + values["shift"]
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    losses = {}
    for engine in ("eager", "recorded"):
        with pyro.get_param_store().scope():
            optim = pyro.optim.SGD({"lr": 1e-3})
            svi = pvae.SVI(model, lambda x, o: None, optim, Trace_ELBO(), engine=engine)
            options = kind(factor=1.0, shift=torch.zeros(3))
            values = options if kind is dict else vars(options)
            losses[engine] = []
            for step in range(9):
                if step % 3 == 0:
                    values.update(factor=1.0 + step, shift=torch.full((3,), step / 10))
                losses[engine].append(svi.step(X, options))
    assert losses["recorded"] == pytest.approx(losses["eager"], rel=1e-6)
    assert svi.replay.replayed == 6


def test_number_argument_in_cache_key():
    def model(x, factor, *, shift=0.0):
        loc = pyro.param("loc", torch.ones(3))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc * factor + shift, 1.0).to_event(1), obs=x)

    def guide(x, factor, *, shift=0.0):
        pass

    losses = {}
    for engine in ("eager", "recorded"):
        with pyro.get_param_store().scope():
            svi = pvae.SVI(model, guide, pyro.optim.SGD({"lr": 1e-3}), Trace_ELBO(), engine=engine)
            kinds = [(f, s) for f in (1.0, 2.0) for s in (0.0, 3.0)]
            losses[engine] = [svi.step(X, f, shift=s) for f, s in [*kinds, *kinds]]
    assert losses["recorded"] == pytest.approx(losses["eager"], rel=1e-6)
    assert svi.replay.recorded == 4


def test_loss_divisor_not_in_recording():
    moved = {}
    for engine in ("eager", "recorded"):
        with pyro.get_param_store().scope():
            model, guide = make_changing()
            with torch.no_grad():
                for parameter in model.__self__.parameters():
                    parameter.fill_(0.1)
            model.__self__.eval()
            svi = pvae.SVI(model, guide, pyro.optim.SGD({"lr": 1e-3}), Trace_ELBO(), engine=engine)
            for divisor in (1, 1, 1, 10, 10, 10):
                svi.step_tensor((X,), divisor=divisor)
            moved[engine] = model.__self__.net.weight.detach().clone()
    torch.testing.assert_close(moved["recorded"], moved["eager"])


@pytest.mark.parametrize(("in_a_row", "goes_on"), [(2, True), (3, False)])
def test_gradients_that_jump(monkeypatch, in_a_row, goes_on):
    """A step at a corner is Pyro's own; steps that always differ are not replayed again."""
    asked = []

    def different(*given, **options):
        asked.append(None)
        # A comparison that fails is repeated with a new recording of the same step.
        return "the gradient of 'w'" if 1 < len(asked) <= 1 + 2 * in_a_row else None

    monkeypatch.setattr("pvae.engine.replay.difference", different)
    ends = []
    for engine in ("eager", "recorded"):
        pyro.set_rng_seed(1)
        pyro.clear_param_store()
        svi = pvae.SVI(*make_changing(), pyro.optim.SGD({"lr": 1e-4}), Trace_ELBO(), engine=engine)
        ends.append([svi.step(X) for _ in range(150)])
    torch.testing.assert_close(*map(torch.tensor, ends))
    assert svi.notes[0] == (
        "the gradient of 'w' of a replay differed from Pyro's in a step that was Pyro's own"
    )
    assert (svi.replay.replayed > 140) == goes_on
    assert any("steps are eager" in note for note in svi.notes) != goes_on
