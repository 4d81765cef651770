"""Steps that read values of tensors are replayed where they read the same values."""

import dataclasses

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from pairs.recordable import BATCHES, X, assert_same, linear, run
from pyro.infer import Trace_ELBO

import pvae


def observing(loc_of):
    """A pair whose model observes x around `loc_of(net, x)`."""

    def make():
        net = linear(3, 3)

        def model(x):
            pyro.module("net", net)
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(loc_of(net, x), 1.0).to_event(1), obs=x)

        return model, lambda x: None

    return make


def branch(net, x):
    loc = net(x)
    return loc * 2 if x[0, 0] > 1.0 else loc


def length(net, x):
    loc = net(x)
    for _ in range(int(x[:3].abs().max().clamp(max=3))):
        loc = loc + 0.1
    return loc


def listed(net, x):
    return net(x) * (1.0 + 0.1 * sum((x[:2, 0] > 1.0).tolist()))


def equal(net, x):
    same = torch.equal(x[:2], x[:2].clamp(min=0.0))
    return net(x) * (1.0 if same else 2.0)


def close(net, x):
    return net(x) * (1.0 if torch.allclose(x[:2], x[:2].clamp(min=0.0)) else 2.0)


def one_hot(net, x):
    return net(F.one_hot((x[:, 0] > 1.0).long(), 3).float())


def one_hot_of_unknown_size(net, x):
    codes = F.one_hot(x[:, 0].clamp(0, 2).long()).float()
    return net(F.pad(codes, (0, 3 - codes.shape[1])))


def indexed(net, x):
    scales = torch.tensor([0.5, 1.0, 2.0])
    return net(x) * scales[x[0, 0].clamp(0, 2).long()]


READS = [branch, length, listed, equal, close, indexed, one_hot, one_hot_of_unknown_size]


@pytest.mark.parametrize("loc_of", READS)
def test_reads_of_data(loc_of):
    wanted = run(observing(loc_of), None, 40)
    got = run(observing(loc_of), "recorded", 40)
    assert_same(got, wanted, 1e-6)
    assert got[3].replay.replayed >= 34
    assert got[3].notes == []


def test_branches_are_variants():
    """A batch takes one branch or the other at the same shape."""
    make = observing(branch)
    with pyro.get_param_store().scope():
        svi = pvae.SVI(*make(), pyro.optim.SGD({"lr": 1e-4}), Trace_ELBO(), engine="recorded")
        low, high = X[:8].clamp(max=0.5), X[:8].clamp(min=1.5)
        for x in (low, low, high, low, high, high):
            svi.step(x)
    (entry,) = svi.replay._cache.values()
    assert len(entry.variants) == svi.replay.recorded == 2
    assert svi.replay.replayed == 5


def test_compiled_with_guards():
    got = run(observing(branch), "captured", 12)
    assert_same(got, run(observing(branch), None, 12), 1e-5)
    assert "compiled" in got[3].engine


def drawn_branch(net, x):
    loc = net(x)
    return loc * 2 if torch.rand(()) > 0.3 else loc


def drawn_shape(net, x):
    loc = net(x)
    mask = torch.rand(len(x)) > 0.2
    shift = torch.zeros_like(loc)
    shift[mask] = loc[mask].tanh()
    return loc + shift


@pytest.mark.parametrize("loc_of", [drawn_branch, drawn_shape])
def test_reads_of_draws(loc_of):
    wanted = run(observing(loc_of), None, 60)
    got = run(observing(loc_of), "recorded", 60)
    assert_same(got, wanted, 1e-6)
    assert got[3].replay.replayed >= 20


def test_failed_replay_restores_buffers():
    def make():
        net, norm = linear(3, 3), torch.nn.BatchNorm1d(3, affine=False)

        def model(x):
            pyro.module("net", net)
            pyro.module("norm", norm)
            loc = norm(x)
            loc = net(loc) * 2 if torch.rand(()) > 0.3 else net(loc)
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

        return model, lambda x: None

    got = run(make, "recorded", 60)
    assert_same(got, run(make, None, 60), 1e-6)
    assert got[3].replay.replayed >= 40


def test_masks_that_choose_ever_other_numbers():
    def masked(net, x):
        draws = torch.randn(4000)
        return net(x) + draws[draws > 0.0].mean()

    got = run(observing(masked), "recorded", 300)
    assert_same(got, run(observing(masked), None, 300), 1e-6)
    line = masked.__code__.co_firstlineno + 2
    assert f"test_guards.py:{line}: torch.where has one shape for all values" in got[3].notes[-1]


def test_labels_out_of_range():
    net = linear(3, 3)

    def model(x, y):
        pyro.module("net", net)
        with pyro.plate("data", len(x)):
            loc = net(F.one_hot(y, 3).float())
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    svi = pvae.SVI(model, lambda x, y: None, torch.optim.SGD, Trace_ELBO(), engine="recorded")
    y = torch.zeros(32, dtype=torch.long)
    for _ in range(3):
        svi.step(BATCHES[0], y)
    assert svi.replay.replayed == 2
    with pytest.raises(RuntimeError, match="Class values must be smaller than num_classes"):
        svi.step(BATCHES[0], y + 3)


def test_ever_new_values_are_eager():
    def scaled(net, x):
        return net(x) * float(net.weight.sum())

    got = run(observing(scaled), "recorded", 100)
    assert_same(got, run(observing(scaled), None, 100), 1e-6)
    assert got[3].replay.recorded <= 4 * 8
    (note,) = got[3].notes
    line = scaled.__code__.co_firstlineno + 1
    assert note.startswith("steps are eager: the value of a tensor that is read at ")
    assert note.endswith(f"test_guards.py:{line} is seldom the same")


def test_replay_that_fails_at_once(monkeypatch):
    """A recording that raises when it is verified is dropped, and nothing is raised."""
    record = pvae.engine.replay.record

    def record_what_fails(*given, **options):
        return dataclasses.replace(record(*given, **options), run=lambda *inputs: inputs[0].nope)

    monkeypatch.setattr(pvae.engine.replay, "record", record_what_fails)
    got = run(observing(branch), "recorded", 12)
    assert_same(got, run(observing(branch), None, 12), 0.0)
    assert got[3].replay.replayed == 0
    assert "AttributeError" in got[3].notes[0]


def test_failing_replay_is_undone():
    """Whatever a replay raises, the step is Pyro's under the same random numbers."""

    def make():
        net = linear(3, 3)

        def model(x):
            pyro.module("net", net)
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(net(z), 1.0).to_event(1), obs=x)

        def guide(x):
            loc = pyro.param("loc", torch.zeros(3))
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))

        return model, guide

    losses = {}
    for engine in ("eager", "recorded"):
        pyro.set_rng_seed(0)
        with pyro.get_param_store().scope():
            model, guide = make()
            svi = pvae.SVI(model, guide, pyro.optim.SGD({"lr": 1e-3}), Trace_ELBO(), engine=engine)
            losses[engine] = [svi.step(X) for _ in range(3)]
            if engine == "recorded":
                (entry,) = svi.replay._cache.values()

                def fail(*given):
                    torch.randn(3)
                    raise IndexError("out of memory, say")

                (variant,) = entry.variants
                variant.recording = dataclasses.replace(variant.recording, run=fail)
            losses[engine] += [svi.step(X) for _ in range(3)]
    assert losses["recorded"] == pytest.approx(losses["eager"], rel=1e-6)
    (note,) = svi.notes
    assert note == "steps are eager: a replay failed with IndexError: out of memory, say"


def test_guard_after_batch_norm():
    """A read after the running averages have changed is no guard ahead of the replay."""

    def make():
        net, norm = linear(3, 3), torch.nn.BatchNorm1d(3, affine=False)

        def model(x):
            pyro.module("net", net)
            pyro.module("norm", norm)
            loc = norm(x)
            loc = net(loc) * 2 if loc[0, 0] > 0.3 else net(loc)
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

        return model, lambda x: None

    got = run(make, "recorded", 60)
    assert_same(got, run(make, None, 60), 1e-6)
    assert got[3].replay.replayed >= 40
