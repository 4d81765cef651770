"""Matrix products by oneDNN: equal up to rounding, and used only if they are faster."""

import subprocess
import sys

import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch._inductor.utils import fresh_cache
from torch.fx.experimental.proxy_tensor import make_fx

import pvae
from pvae.engine import recording
from pvae.engine.onednn import (
    _dense,
    _product,
    onednn_is_faster,
    register_lowering_of_onednn,
    use_onednn,
)

onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN"
)


def test_nothing_is_registered_before_it_is_needed():
    code = "import pvae, torch; assert not hasattr(torch.ops.pvae, 'product')"
    subprocess.run([sys.executable, "-c", code], check=True)


def replaced(function, *tensors):
    """The traced function with its products replaced, and the number of replacements."""
    traced = make_fx(function)(*tensors)
    use_onednn(traced.graph)
    traced.recompile()
    found = [n for n in traced.graph.nodes if n.target is torch.ops.pvae.product.default]
    return traced, len(found)


SEEDED = torch.Generator().manual_seed(0)
LARGE = torch.randn(256, 200, generator=SEEDED)
WEIGHT = torch.randn(300, 200, generator=SEEDED)
BIAS = torch.randn(300, generator=SEEDED)


@onednn
@pytest.mark.parametrize(
    ("function", "tensors"),
    [
        (lambda a, w: a @ w.t(), (LARGE, WEIGHT)),
        (lambda a, w: w @ a.t(), (LARGE, WEIGHT)),
        (lambda a, w: a.t() @ (a @ w.t()), (LARGE, WEIGHT)),
        (torch.nn.functional.linear, (LARGE, WEIGHT, BIAS)),
    ],
    ids=["x W'", "W x'", "x' g", "linear"],
)
def test_large_products_match(function, tensors):
    graph, count = replaced(function, *tensors)
    assert count >= 1
    exact = function(*(t.double() for t in tensors))
    error = (graph(*tensors).double() - exact).abs().max() / exact.abs().max()
    assert error < 2e-6


@pytest.mark.parametrize(
    ("function", "tensors"),
    [
        (lambda a, w: a @ w.t(), (LARGE[:10], WEIGHT)),
        (lambda a, w: a @ w.t(), (LARGE.double(), WEIGHT.double())),
        (lambda a, w: a @ w.t(), (LARGE.bfloat16(), WEIGHT.bfloat16())),
        (lambda c, a, w: torch.addmm(c, a, w.t()), (LARGE @ WEIGHT.t(), LARGE, WEIGHT)),
        (lambda c, a, w: torch.addmm(c, a, w.t(), beta=2), (BIAS, LARGE, WEIGHT)),
    ],
    ids=["small", "double", "bfloat16", "matrix added", "factor"],
)
def test_other_products_unchanged(function, tensors):
    graph, count = replaced(function, *tensors)
    assert count == 0
    assert torch.equal(graph(*tensors), function(*tensors))


@pytest.mark.parametrize(
    ("able", "faster"),
    [
        ({"cpu_name": "AMD EPYC", "avx512_f": True}, True),
        ({"cpu_name": "AMD EPYC", "avx512_f": False}, False),
        ({"cpu_name": "Intel Xeon", "avx512_f": True}, False),
        ({}, False),
    ],
)
def test_only_processors_that_gain(monkeypatch, able, faster):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert onednn_is_faster() is faster


@onednn
def test_compiled_graph_calls_onednn_directly():
    traced, _ = replaced(lambda a, w, c: torch.addmm(c, a, w.t()).t() @ a, LARGE, WEIGHT, BIAS)
    with fresh_cache(), torch.no_grad(), torch._inductor.config.patch(cpp_wrapper=True):
        register_lowering_of_onednn()
        run = torch._inductor.standalone_compile(traced, [LARGE, WEIGHT, BIAS])
        with torch.profiler.profile() as profile:
            product = run(LARGE, WEIGHT, BIAS)
    torch.testing.assert_close(
        product, (LARGE @ WEIGHT.t() + BIAS).t() @ LARGE, rtol=1e-5, atol=1e-3
    )
    called = {event.key for event in profile.key_averages()}
    assert not called & {"pvae::product", "aten::mm", "aten::addmm"}


@onednn
@pytest.mark.parametrize("engine", ["recorded", "captured"])
def test_wide_step_matches_pyro(monkeypatch, engine):
    monkeypatch.setattr(recording, "onednn_is_faster", lambda: True)
    x = LARGE[:128].gt(0).float()
    losses, weights = {}, {}
    for name in ("eager", engine):
        pyro.set_rng_seed(0)
        with pyro.get_param_store().scope():
            model = pvae.models.VAE(x_shape=(200,), z_dim=3, hidden=256)
            guide = pvae.guides.MeanField(x_shape=(200,), z_dim=3, hidden=256)
            svi = pvae.SVI(model, guide, pyro.optim.SGD({"lr": 1e-4}), Trace_ELBO(), engine=name)
            losses[name] = torch.tensor([svi.step(x) for _ in range(20)])
            weights[name] = torch.cat([p.detach().flatten() for p in model.parameters()])
            assert svi.notes == []
    torch.testing.assert_close(losses[engine], losses["eager"], rtol=1e-5, atol=0)
    torch.testing.assert_close(weights[engine], weights["eager"], rtol=1e-4, atol=1e-5)
    (kind,) = svi.replay._cache.values()
    products = torch.ops.pvae.product.default
    assert (
        sum(node.target is products for node in kind.variants[0].recording.graph.graph.nodes) == 5
    )


@onednn
def test_factors_with_gaps_are_made_dense():
    """As every second row of the data; oneDNN takes 40 times as long for them."""
    gaps, dense = LARGE[::2], LARGE[::2].contiguous()
    assert _dense(gaps).is_contiguous()
    assert _dense(dense) is dense
    turned = dense.t()
    assert _dense(turned) is turned
    torch.testing.assert_close(_product(gaps, WEIGHT.t(), BIAS), dense @ WEIGHT.t() + BIAS)
