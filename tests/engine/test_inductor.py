"""Which recordings are compiled, and how their gradients are used."""

import dataclasses
import re

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs.recordable import X, assert_same, linear, make_changing, run
from pyro.infer import Trace_ELBO
from torch.fx.experimental.proxy_tensor import make_fx

import pvae

# Recordings that are not compiled


def test_large_step_is_replayed_uncompiled(monkeypatch):
    monkeypatch.setattr(pvae.engine.inductor, "MAX_NODES", 10)
    got = run(make_changing, "captured", 24)
    assert_same(got, run(make_changing, None, 24), 1e-6)
    (note, *others) = got[3].notes
    assert re.search(r"without compilation; its \d+ operations would take minutes", note)
    assert all("would take minutes" in other for other in others)
    assert got[3].engine == "recorded since step 2: 22 of 24 steps replayed"


def test_replay_without_compiler(monkeypatch):
    def refuse(*args, **kwargs):
        raise RuntimeError("no working C++ compiler\nand more lines")

    monkeypatch.setattr(torch._inductor, "standalone_compile", refuse)
    got = run(make_changing, "captured", 24)
    assert_same(got, run(make_changing, None, 24), 1e-6)
    assert got[3].notes == [
        "recorded steps are replayed without compilation; it does not compile: RuntimeError: no "
        "working C++ compiler"
    ]


# Gradients that are scaled in place


def test_gradients_with_shared_memory():
    """A graph may return one tensor for two gradients, or the data as a gradient."""

    def share(recording):
        def one_for_all(*tensors):
            loss, first, *rest = recording.run(*tensors)
            return [loss, first, *[first] * len(rest)]

        return dataclasses.replace(recording, run=one_for_all)

    def model(x):
        locs = [pyro.param(name, torch.zeros(3)) for name in ("a", "b")]
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(sum(locs), 1.0).to_event(1), obs=x)

    svi = pvae.SVI(model, lambda x: None, torch.optim.SGD, Trace_ELBO(), engine="recorded")
    for _ in range(2):
        svi.step(X)
    (kind,) = svi.replay._cache.values()
    (variant,) = kind.variants
    assert not pvae.engine.verification.aliased(variant.recording, [X], [])
    variant.recording, variant.verified = share(variant.recording), False
    assert pvae.engine.verification.aliased(variant.recording, [X], [])
    for _ in range(4):
        svi.step_tensor((X,), divisor=len(X))
    assert variant.recording.copies
    got = pyro.get_param_store()["a"].detach().clone()
    with pyro.get_param_store().scope():
        eager = pvae.SVI(model, lambda x: None, torch.optim.SGD, Trace_ELBO(), engine="eager")
        for _ in range(2):
            eager.step(X)
        for _ in range(4):
            eager.step_tensor((X,), divisor=len(X))
        torch.testing.assert_close(got, pyro.get_param_store()["a"].detach())


def test_gradients_of_verification_stay_separate(monkeypatch):
    """Also for parameters known only to the optimizer, if a recording is discarded."""
    record = pvae.engine.replay.record

    def record_wrongly(*given, **options):
        done = record(*given, **options)
        return dataclasses.replace(done, run=lambda *t: [2 * out for out in done.graph(*t)])

    monkeypatch.setattr(pvae.engine.replay, "record", record_wrongly)
    ends = {}
    for engine in ("eager", "recorded"):
        torch.manual_seed(0)
        net = linear(3, 3)
        start = net.weight.detach().clone()

        def model(x, net=net):
            loc = net(x) + pyro.param("shift", torch.zeros(3))  # the only parameter in Pyro's store
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

        pyro.clear_param_store()
        optimizer = torch.optim.SGD(
            [*net.parameters(), pyro.param("shift", torch.zeros(3))], lr=1e-4
        )
        svi = pvae.SVI(model, lambda x: None, optimizer, Trace_ELBO(), engine=engine)
        for _ in range(4):
            svi.step(X)
        ends[engine] = net.weight.detach().clone()
    assert not torch.equal(ends["eager"], start)
    assert torch.equal(ends["eager"], ends["recorded"])
    assert "differs from Pyro's" in svi.notes[0]


@pytest.mark.parametrize(
    ("operation", "in_cpp"),
    [
        (lambda x: torch.nn.functional.dropout(x.tanh() @ x.T), True),
        (lambda x: torch.linalg.solve_triangular(torch.eye(3), x.T, upper=False), False),
    ],
)
def test_wrapper_in_cpp(operation, in_cpp):
    """Operations that the wrapper cannot call itself have corrupted the heap."""
    graph = make_fx(operation)(torch.randn(4, 3)).graph
    assert pvae.engine.inductor._has_cpp_calls(graph) == in_cpp


def test_gradients_in_the_layout_of_parameters():
    """A compiler may return them transposed."""
    parameter = torch.zeros(2, 3)

    def run(x):
        return [x.sum(), torch.arange(6.0).reshape(3, 2).t()]

    x = torch.ones(3)
    outputs = run(x)
    assert outputs[1].stride() != parameter.stride()
    _, got = pvae.engine.inductor._in_layout_of([parameter], run, outputs)(x)
    assert got.stride() == parameter.stride()
    assert torch.equal(got, outputs[1])
    same = pvae.engine.inductor._in_layout_of([outputs[1]], run, outputs)
    assert same is run
