"""Many steps in one launch take the steps that single ones take; graphs of them need a GPU."""

import pyro
import pytest
import torch
from pairs import callables as kinds
from pyro.infer import Trace_ELBO
from torch.utils._pytree import tree_leaves

import pvae
from pvae.data import Rows
from pvae.engine import fused_adam, many_steps, replay
from pvae.engine.fused_adam import FusedAdam
from pvae.engine.schedule import SCHEDULES, Schedule
from pvae.pair.preserve import preserve_generators, preserve_tensors
from pvae.training.loop import Loop

GREY = (torch.rand(230, 3, generator=torch.Generator().manual_seed(0)) * 255).to(torch.uint8)
ORDER = torch.randperm(230, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def launched(monkeypatch):
    """Numbers of steps of the launches, which stand in for CUDA graphs on a CPU.

    A launch repeats its work eagerly, into the same memory each time.
    """
    sizes = []

    def graph_of(work, *, warm=0, generator=None):
        found = work()

        def launch():
            sizes.append(len(found[0]))
            for place, value in zip(tree_leaves(found), tree_leaves(work()), strict=True):
                if place is not None:
                    place.copy_(value)

        return launch, found

    make = many_steps.ManySteps._made

    def made(self, index, rates, generator):
        of_adam = [
            tensor
            for group in self.adam.groups
            for tensor in (*group.params, *group.averages, *group.squares, group.counts)
        ]
        buffers = [self.recording.constants[i - 1] for i in self.recording.written]
        state = None if generator is None else generator.get_state()
        with preserve_tensors([*of_adam, *buffers]), preserve_generators():
            launch = make(self, index, rates, generator)
        if generator is not None:
            generator.set_state(state)
        return launch

    monkeypatch.setattr(many_steps, "graph_of", graph_of)
    monkeypatch.setattr(many_steps.ManySteps, "_made", made)
    monkeypatch.setattr(many_steps, "_SIZES", (4, 1))
    monkeypatch.setattr(fused_adam, "on_cuda", lambda tensors: True)
    monkeypatch.setattr(fused_adam, "graph_of", lambda work: (work, None))
    # On a CPU, the ends of pieces are rounded otherwise than the middle of a vector.
    monkeypatch.setattr(FusedAdam, "update_in_pieces", FusedAdam.update)
    monkeypatch.setattr(replay, "on_cuda", lambda tensors: True)
    monkeypatch.setattr(replay, "graph_recording", lambda recording, tensors: recording)
    monkeypatch.setattr("pvae.svi.on_cuda", lambda tensors: True)
    monkeypatch.setattr("pvae.training.steps.on_cuda", lambda tensors: True)
    return sizes


def adam(parameters):
    return torch.optim.Adam(parameters, lr=1e-2, fused=True)


def trained(take, *, engine="recorded", name="functions", **options):
    """Losses and parameters after `take` has taken steps with an SVI."""
    pyro.set_rng_seed(1)
    with pyro.get_param_store().scope():
        model, guide = kinds.make(name, 0)
        svi = pvae.SVI(model, guide, adam, Trace_ELBO(), engine=engine, **options)
        losses = take(svi, Rows(GREY, binarize="dynamic"), torch.Generator().manual_seed(3))
        store = {k: v.detach().clone() for k, v in pyro.get_param_store()._params.items()}
    return losses, store, svi


def one_by_one(svi, rows, generator):
    losses = []
    for index in ORDER[:220].view(22, 10):
        loss, _ = svi.step_tensor(rows.arguments(index, generator), divisor=10)
        losses.append(loss)
    return torch.stack(losses)


def many(svi, rows, generator):
    losses, _ = svi.run_steps(rows, ORDER[:220].view(22, 10), divisor=10, generator=generator)
    return losses


def assert_equal(got, wanted):
    assert torch.equal(got[0], wanted[0])
    assert got[1].keys() == wanted[1].keys()
    for name, value in got[1].items():
        assert torch.equal(value, wanted[1][name]), name


@pytest.mark.parametrize("options", [{}, {"clip_norm": 0.5}], ids=["plain", "clipped"])
@pytest.mark.parametrize("engine", ["recorded", "captured"])
def test_steps_are_those_of_single_ones(launched, engine, options):
    got = trained(many, engine=engine, **options)
    assert launched == [4] * 5  # after Pyro's own step and the first, verified replay
    assert_equal(got, trained(one_by_one, engine=engine, **options))
    assert got[2].replay.replayed == 21


def test_without_launches():
    """On a CPU, each step is taken by itself."""
    assert_equal(trained(many), trained(one_by_one))


def test_batches_of_another_size_and_other_data(launched):
    def by(take):
        def run(svi, rows, generator):
            first = take(svi, rows, generator, ORDER[:120].view(12, 10))
            second = take(svi, rows, generator, ORDER[:60].view(10, 6))
            third = take(svi, Rows(GREY[ORDER], binarize="dynamic"), generator,
                         ORDER[:60].view(6, 10))  # fmt: skip
            return torch.cat([first, second, third])

        return run

    def one(svi, rows, generator, index):
        batches = [rows.arguments(numbers, generator) for numbers in index]
        return torch.stack([svi.step_tensor(b, divisor=len(b[0]))[0] for b in batches])

    def several(svi, rows, generator, index):
        return svi.run_steps(rows, index, divisor=index.shape[1], generator=generator)[0]

    assert_equal(trained(by(several)), trained(by(one)))
    assert sum(launched) == (12 - 2) + (10 - 2) + (6 - 1)


def test_schedule_of_the_learning_rate_is_followed(launched):
    def by(take):
        def run(svi, rows, generator):
            losses = []
            for start in range(0, 200, 50):
                losses.append(take(svi, rows, ORDER[start : start + 50].view(5, 10), generator))
                for group in svi.optim.optimizer.param_groups:
                    group["lr"] *= 0.5
            return torch.cat(losses)

        return run

    def one(svi, rows, index, generator):
        batches = [rows.arguments(numbers, generator) for numbers in index]
        return torch.stack([svi.step_tensor(b, divisor=10)[0] for b in batches])

    def several(svi, rows, index, generator):
        return svi.run_steps(rows, index, divisor=10, generator=generator)[0]

    assert_equal(trained(by(several)), trained(by(one)))
    assert len(launched) > 3


def test_changed_value_ends_the_launches(launched):
    """A number that the programs refer to is part of the cache key of each launch."""
    scale = {"value": 1.0}

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", pyro.distributions.Normal(torch.zeros(len(x)), scale["value"]))
            pyro.sample("x", pyro.distributions.Normal(z, 1.0), obs=x[:, 0])

    def guide(x):
        loc = pyro.param("loc", torch.zeros(()))
        with pyro.plate("data", len(x)):
            pyro.sample("z", pyro.distributions.Normal(loc, 1.0))

    svi = pvae.SVI(model, guide, adam, Trace_ELBO(), engine="recorded")
    index = ORDER[:60].view(6, 10)
    svi.run_steps(Rows(GREY), index)
    assert launched == [4]
    scale["value"] = 2.0
    svi.run_steps(GREY, index)
    assert (launched, svi.replay.recorded) == ([4, 4], 2)


def test_tensors_have_their_graphs_made_once(launched):
    x, index = GREY.float() / 255, ORDER[:60].view(6, 10)
    svi = pvae.SVI(*kinds.make("functions", 0), adam, Trace_ELBO(), engine="recorded")
    svi.run_steps(x, index)
    made = svi._many[10]
    svi.run_steps(x, index)
    assert svi._many[10] is made
    svi.run_steps((x.clone(),), index)
    assert svi._many[10] is not made


def fit(data, **options):
    model, guide = kinds.make("methods", 0)
    options = {"epochs": 4, "batch_size": 32, "engine": "captured", "progress": False, **options}
    return pvae.fit(model, guide, data, **options)


def results(found):
    rows = [(row["step"], row["train_loss"], row.get("gradient_norm")) for row in found.history]
    return rows, {k: v.tolist() for k, v in found.model.pair.parameters().items()}


@pytest.mark.parametrize(
    "options",
    [{}, {"clip_norm": 1.0}, {"ema": 0.9}, {"steps_per_epoch": 11}, {"engine": "auto"},
     {"warmup": 3}],
    ids=lambda options: next(iter(options), "plain"),
)  # fmt: skip
def test_fit_is_the_same(launched, monkeypatch, options):
    monkeypatch.setitem(SCHEDULES, "auto", Schedule(record=3, compile=9))
    data = Rows(GREY, binarize="dynamic")
    with monkeypatch.context() as patch:
        patch.setattr("pvae.training.steps.on_cuda", lambda tensors: False)
        wanted = results(fit(data, **options))
    assert not launched
    assert results(fit(data, **options)) == wanted
    assert set(launched) == {1} if "ema" in options else 4 in launched


@pytest.mark.parametrize(
    ("engine", "saves"), [("recorded", 1), ("recorded", 7), ("captured", 2), ("auto", 4)]
)
def test_interrupted_within_an_epoch_and_resumed(launched, monkeypatch, tmp_path, engine, saves):
    """Eight steps an epoch, and a checkpoint after each five: launches end there."""
    monkeypatch.setitem(SCHEDULES, "auto", Schedule(record=3, compile=9))
    data = Rows(GREY, binarize="dynamic")
    options = {"engine": engine, "save_steps": 5, "epochs": 6}
    wanted = results(fit(data, out=tmp_path / "whole", **options))
    assert 4 in launched
    save, count = Loop._save_within, 0

    def save_and_stop(self):
        nonlocal count
        save(self)
        count += 1
        if count == saves:
            raise KeyboardInterrupt

    run = tmp_path / "part"
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_save_within", save_and_stop)
        stopped = fit(data, out=run, **options)
    assert stopped.stop_reason == "interrupted"
    resumed = fit(data, out=run, resume=True, **options)
    assert results(resumed) == wanted


def test_diverged_step_is_named(launched):
    with pytest.raises(pvae.DivergedError, match=r"step \d+"):
        fit(Rows(GREY), learning_rate=1e30)


def test_pieces_of_no_gradients():
    parameter = torch.nn.Parameter(torch.ones(3))
    own = FusedAdam([torch.optim.Adam([parameter], fused=True)], [])
    own.update_in_pieces([], None, [])
    assert torch.equal(parameter, torch.ones(3))


@pytest.mark.parametrize("steps", [None, 11, 3])
def test_blocks_are_the_batches_of_an_epoch(steps):
    for binarize, skip in (("dynamic", 0), ("dynamic", 5), ("none", 8)):
        source = pvae.data.batches(
            Rows(GREY, binarize=binarize), batch_size=32, device=torch.device("cpu"), seed=0,
            steps_per_epoch=steps,
        )  # fmt: skip
        wanted = list(source.epoch(2, skip))
        blocks = source.blocks(2, skip)
        got = [
            blocks.rows.arguments(index, blocks.generator)
            for block in blocks.numbers
            for index in block
        ]
        assert len(got) == len(wanted)
        assert all(torch.equal(a, b) for (a,), (b,) in zip(got, wanted, strict=True))


@pytest.mark.parametrize(
    "options", [{}, {"amsgrad": True}, {"weight_decay": 0.1, "maximize": True}]
)
def test_pieces_of_adam_give_the_same_numbers(monkeypatch, options):
    monkeypatch.setattr("pvae.engine.adam_group._SMALLEST", 4)
    results = []
    for update in (FusedAdam.update, FusedAdam.update_in_pieces):
        torch.manual_seed(0)
        params = [torch.nn.Parameter(torch.randn(n)) for n in (3, 700, 1)]
        params.append(torch.nn.Parameter(torch.randn(9, 4).t()))  # not contiguous
        optimizer = torch.optim.Adam(params, fused=True, **options)
        for parameter in params:
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
        own = FusedAdam([optimizer], params)
        for _ in range(3):
            own.count()
            update(own, [torch.randn_like(p) for p in params], torch.tensor(2.0), [1e-2])
        results.append([p.detach().clone() for p in params])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


# With a GPU


def on_the_gpu(take, engine, **options):
    with torch.device("cuda"):
        pyro.set_rng_seed(1)
        with pyro.get_param_store().scope():
            model, guide = kinds.make("functions", 0)
            svi = pvae.SVI(model, guide, adam, Trace_ELBO(), engine=engine, **options)
            rows = Rows(GREY.cuda(), binarize="dynamic")
            losses = take(svi, rows, torch.Generator("cuda").manual_seed(3))
            store = {k: v.detach().clone() for k, v in pyro.get_param_store()._params.items()}
    return losses, store, svi


def index_on_gpu():
    return torch.cat([ORDER[:220]] * 8).view(-1, 10).cuda()


def one_by_one_on_gpu(svi, rows, generator):
    batches = [rows.arguments(numbers, generator) for numbers in index_on_gpu()]
    return torch.stack([svi.step_tensor(batch, divisor=10)[0] for batch in batches])


def many_on_gpu(svi, rows, generator):
    return svi.run_steps(rows, index_on_gpu(), divisor=10, generator=generator)[0]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("options", [{}, {"clip_norm": 0.5}], ids=["plain", "clipped"])
@pytest.mark.parametrize("engine", ["recorded", "captured"])
def test_launches_on_gpu_are_single_steps(engine, options):
    got = on_the_gpu(many_on_gpu, engine, **options)
    assert_equal(got, on_the_gpu(one_by_one_on_gpu, engine, **options))
    assert got[2].replay.replayed == 175
    assert {steps for many in got[2]._many.values() for steps, _ in many._launches} == {
        64,
        16,
        4,
        1,
    }
    assert got[2].notes == []
