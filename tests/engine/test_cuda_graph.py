"""CUDA graphs of steps: their bookkeeping on any machine, and the graphs on a GPU."""

import pyro
import pytest
import torch
from pairs import callables as kinds
from pairs.recordable import BATCHES, PAIRS, X, assert_same
from pyro.infer import Trace_ELBO
from pyro.nn import PyroModule

import pvae
from pvae.engine import cuda_graph, fused_adam, replay
from pvae.engine.optimizers import TorchOptim
from pvae.engine.step import Step
from pvae.engine.updates import Updates

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


def stand_in(work, *, warm=0):
    """Stands in for a CUDA graph: repeats its work eagerly, into the same memory each time."""
    outputs = work()

    def launch():
        for place, value in zip(outputs, work(), strict=True):
            place.copy_(value)

    return launch, outputs


# Tests without a GPU


def test_graph_reads_new_data_in_place(monkeypatch):
    monkeypatch.setattr(cuda_graph, "graph_of", stand_in)
    pyro.set_rng_seed(0)
    model, guide = kinds.make("functions", 0)
    svi = pvae.SVI(model, guide, torch.optim.SGD, Trace_ELBO(), engine="recorded")
    for _ in range(2):
        svi.step(BATCHES[0])
    (kind,) = svi.replay._cache.values()
    plain = kind.variants[0].recording
    launched = cuda_graph.graph_recording(plain, [BATCHES[0]])
    assert launched.how == "recorded as a CUDA graph"
    places = set()
    for batch in BATCHES[:2]:
        torch.manual_seed(3)
        wanted = plain([batch])
        torch.manual_seed(3)
        got = launched([batch])
        assert torch.equal(got.losses[0], wanted.losses[0])
        for a, b in zip(got.gradients, wanted.gradients, strict=True):
            assert torch.equal(a, b)
        places.add(got.gradients[0].data_ptr())
    assert len(places) == 1


def test_uncapturable_step_is_launched_eagerly(monkeypatch):
    def refuse(work, *, warm=0):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(cuda_graph, "graph_of", refuse)
    monkeypatch.setattr(replay, "on_cuda", lambda tensors: True)
    svi = pvae.SVI(*kinds.make("functions", 0), torch.optim.SGD, Trace_ELBO(), engine="recorded")
    for _ in range(4):
        svi.step(X)
    assert svi.engine == "recorded since step 2: 3 of 4 steps replayed"
    assert svi.notes == [
        "the kernels of a step are launched one by one; it cannot become a CUDA graph: operation "
        "not permitted when stream is capturing"
    ]


def test_launched_adam_matches_torch(monkeypatch):
    monkeypatch.setattr(fused_adam, "on_cuda", lambda tensors: True)
    monkeypatch.setattr(fused_adam, "graph_of", lambda work: (work, None))
    torch.manual_seed(0)
    theirs = [torch.nn.Parameter(torch.randn(n)) for n in (3, 5)]
    own = [torch.nn.Parameter(p.detach().clone()) for p in theirs]
    optimizer = torch.optim.Adam(theirs, fused=True)
    optim = TorchOptim(torch.optim.Adam(own, fused=True))
    updates = Updates(optim, replace=False)
    gradients = [torch.zeros(3), torch.zeros(5)]  # gradients keep their memory
    for number in range(9):
        values = [torch.randn(3), torch.randn(5)]
        for place, value in zip(gradients, values, strict=True):
            place.copy_(value)
        for group in (*optimizer.param_groups, *optim.optimizer.param_groups):
            group["lr"] = 0.1 / (number + 1)
            group["eps"] = 1e-8 if number < 5 else 1e-2
        divisor = torch.tensor(4.0 if number < 3 else 2.0)
        updates(Step((0.0,), False, own, own, gradients), divisor)
        for parameter, value in zip(theirs, values, strict=True):
            parameter.grad = value / divisor
        optimizer.step()
        for a, b in zip(own, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
    assert updates._fused._launch.launch is not None


# Tests with a GPU


def run_on_cuda(make, engine, steps, *, adam, batches=BATCHES):
    """Losses and parameters after steps on the GPU, with fixed initial values and seed."""
    pyro.set_rng_seed(1)
    losses = []

    def optimizer(parameters):
        if adam:
            return torch.optim.Adam(parameters, lr=1e-3, fused=True)
        return torch.optim.SGD(parameters, lr=1e-4)

    with pyro.get_param_store().scope(), torch.device("cuda"):
        model, guide = make()
        if isinstance(model, torch.nn.Module) and not isinstance(model, PyroModule):
            # Programs that register nothing: the optimizer knows what is trained.
            optimizer = optimizer([*model.parameters(), *guide.parameters()])
        svi = pvae.SVI(model, guide, optimizer, Trace_ELBO(), engine=engine)
        batches = [batch.cuda() for batch in batches]
        pyro.set_rng_seed(2)
        for number in range(steps):
            batch = batches[number % len(batches)]
            loss, _ = svi.step_tensor((batch,), divisor=len(batch))
            losses.append(float(loss))
        store = {k: v.detach().clone() for k, v in pyro.get_param_store()._params.items()}
    return losses, store, [], svi


@pytest.mark.cuda
@cuda
@pytest.mark.parametrize("engine", ["recorded", "captured"])
@pytest.mark.parametrize("name", PAIRS)
def test_gpu_steps_match_pyro(name, engine):
    got = run_on_cuda(PAIRS[name], engine, 200, adam=False)
    assert_same(got, run_on_cuda(PAIRS[name], "eager", 200, adam=False), 2e-4)
    assert got[3].notes == []
    assert got[3].replay.replayed == 198
    assert "as a CUDA graph" in got[3].engine


@pytest.mark.cuda
@cuda
@pytest.mark.parametrize("engine", ["recorded", "captured"])
def test_adam_in_graph(engine):
    # Gradients keep their memory where all steps are launches of one graph.
    one = {"adam": True, "batches": BATCHES[:1]}
    got = run_on_cuda(PAIRS["gaussian hierarchy"], engine, 100, **one)
    assert_same(got, run_on_cuda(PAIRS["gaussian hierarchy"], "eager", 100, **one), 1e-3)
    assert got[3].updates._fused._launch.launch is not None


@pytest.mark.cuda
@cuda
@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_precision_on_gpu(precision):
    losses = {}
    for name in ("float32", precision):
        fit = pvae.fit(
            *kinds.make("methods", 0), X, epochs=60, batch_size=32, device="cuda",
            engine="captured", precision=name, progress=False,
        )  # fmt: skip
        losses[name] = fit.history[-1]["train_loss"]
        assert [note for note in fit.notes if "BatchNorm" not in note] == []
    assert losses[precision] == pytest.approx(losses["float32"], rel=3e-2)


@pytest.mark.cuda
@cuda
def test_gpu_epoch_without_synchronization(tmp_path):
    """Any synchronization within a step raises an error."""
    model, guide = kinds.make("methods", 0)
    device = torch.device("cuda")
    for _, network in pvae.pair.discovery.reach({"m": model}, torch.nn.Module):
        network.to(device)
    data = X[:32].to(device)
    svi = pvae.SVI(
        model, guide, lambda p: torch.optim.Adam(p, fused=True), Trace_ELBO(), engine="recorded"
    )
    for _ in range(5):
        svi.step_tensor((data,), divisor=32)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(50):
            svi.step_tensor((data,), divisor=32)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.cuda
@cuda
def test_generator_after_a_failed_capture():
    """Everything on the device would fail if the generator stayed in capture mode."""

    def work():
        draws = torch.randn(3, device="cuda")
        return draws.cpu()  # a copy to the host, which a graph cannot contain

    torch.cuda.manual_seed(0)
    with pytest.raises(RuntimeError):
        cuda_graph.graph_of(work)
    got = torch.randn(3, device="cuda")
    torch.cuda.manual_seed(0)
    assert torch.equal(got, torch.randn(3, device="cuda"))
