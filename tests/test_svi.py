"""A step from a recorded graph is Pyro's step: same random numbers, losses, parameters, buffers."""

import kinds_of_pair as kinds
import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs_to_record import PAIRS, linear
from pyro.infer import (
    RenyiELBO,
    ReweightedWakeSleep,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
    config_enumerate,
)
from torch import nn

import pvae

X = kinds.toy_data(96)
BATCHES = [X[:32], X[32:64], X[64:88], X[8:40]]  # two sizes in turn


def run(make, engine, steps, *, rate=1e-4, objective=None, change=None):
    """Losses, parameters and buffers after SGD steps, from the same start and random numbers."""
    pyro.set_rng_seed(1)
    with pyro.get_param_store().scope():
        model, guide = make()
        optim = pyro.optim.SGD({"lr": rate})
        loss = Trace_ELBO() if objective is None else objective()
        if engine is None:
            svi = pyro.infer.SVI(model, guide, optim, loss)
        else:
            svi = pvae.SVI(model, guide, optim, loss, engine=engine)
        pyro.set_rng_seed(2)
        losses = []
        for number in range(steps):
            if change is not None:
                change(number, model, guide)
            losses.append(svi.step(BATCHES[number % len(BATCHES)]))
        store = {k: v.detach().clone() for k, v in pyro.get_param_store()._params.items()}
        networks = [n for _, n in pvae.reach.reach({"m": model, "g": guide}, nn.Module)]
        buffers = [b.clone() for network in networks for b in network.buffers()]
    return losses, store, buffers, svi


def assert_same(got, wanted, tolerance):
    torch.testing.assert_close(
        torch.tensor(got[0]), torch.tensor(wanted[0]), rtol=tolerance, atol=tolerance
    )
    assert got[1].keys() == wanted[1].keys()
    for name, value in wanted[1].items():
        torch.testing.assert_close(got[1][name], value, rtol=tolerance, atol=tolerance)
    for a, b in zip(got[2], wanted[2], strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", PAIRS)
def test_recorded_steps_are_pyros(name):
    got = run(PAIRS[name], "recorded", 24)
    assert_same(got, run(PAIRS[name], None, 24), 1e-6)
    svi = got[3]
    assert svi.replay.notes == []
    assert svi.replay.replayed == 22
    assert svi.replay.recorded == 2  # one a size


@pytest.mark.slow
@pytest.mark.parametrize("name", PAIRS)
def test_two_hundred_captured_steps_are_pyros(name):
    got = run(PAIRS[name], "captured", 200)
    assert_same(got, run(PAIRS[name], None, 200), 2e-4)
    assert got[3].replay.replayed == 198
    assert got[3].replay.notes == []


@pytest.mark.parametrize("name", ["methods", "bernoulli hierarchy"])
def test_captured_steps_are_pyros(name):
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
def test_every_objective_is_pyros(name):
    make = PAIRS["gaussian hierarchy"]
    got = run(make, "recorded", 24, objective=OBJECTIVES[name])
    assert_same(got, run(make, None, 24, objective=OBJECTIVES[name]), 1e-6)


def test_enumeration_is_pyros():
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
    assert f"test_svi.py:{make.line}: __bool__ reads a value" in note
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


def test_recording_and_comparing_leave_no_trace():
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


def test_evaluating_a_loss_changes_no_parameter():
    model, guide = kinds.make("functions", 0)
    svi = pvae.SVI(model, guide, torch.optim.Adam, Trace_ELBO(), engine="recorded")
    svi.step(X)
    before = {k: v.clone() for k, v in pyro.get_param_store()._params.items()}
    svi.evaluate_loss(X)
    for name, value in pyro.get_param_store()._params.items():
        assert torch.equal(value, before[name])


def test_parameters_that_appear_later_are_picked_up():
    def model(x):
        loc = pyro.param("loc", torch.zeros(3))
        if model.more:
            loc = loc + pyro.param("shift", torch.ones(3))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    model.more = False
    svi = pvae.SVI(model, lambda x: None, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO(), "recorded")
    for number in range(201):
        model.more = number >= 100  # found out by the comparison at the hundredth step
        svi.step(X)
    shift = pyro.get_param_store()["shift"]
    assert not torch.equal(shift, torch.ones(3))


@pytest.mark.parametrize("engine", ["recorded", "captured"])
def test_fit_with_an_engine_is_fit(engine, tmp_path):
    fits = {
        name: pvae.fit(
            *kinds.make("functions", 0), X, epochs=3, batch_size=40, engine=name, progress=False,
            warmup=2, clip_norm=1.0, out=tmp_path / name,
        )
        for name in ("eager", engine)
    }  # fmt: skip
    losses = [[row["train_loss"] for row in fit.history] for fit in fits.values()]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert fits[engine].engine == f"{engine}: 7 of 9 steps replayed"


def test_a_resumed_run_with_recorded_steps_is_the_same(tmp_path):
    options = {"batch_size": 40, "engine": "recorded", "progress": False}
    whole = pvae.fit(*kinds.make("functions", 0), X, epochs=4, out=tmp_path / "a", **options)
    pvae.fit(*kinds.make("functions", 0), X, epochs=2, out=tmp_path / "b", **options)
    parts = pvae.fit(
        *kinds.make("functions", 0), X, epochs=4, out=tmp_path / "b", resume=True, **options
    )
    losses = [[row["train_loss"] for row in fit.history] for fit in (whole, parts)]
    assert losses[0] == losses[1]


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
