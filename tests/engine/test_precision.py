"""Reduced precision: what is rounded, what is not, and unsupported devices."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import callables as kinds
from pairs.recordable import X, linear
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.nn import PyroModule, PyroSample
from torch import nn

import pvae
from pvae.engine import precision as precisions
from pvae.engine.precision import NetworkAutocast, check_precision, matmul_precision


def able():
    try:
        check_precision("bfloat16", torch.device("cpu"))
    except ValueError:
        return False
    return True


needs_bfloat16 = pytest.mark.skipif(not able(), reason="this CPU has no bfloat16")


@pytest.fixture(autouse=True)
def every_product(request, monkeypatch):
    """Products of any size run in bfloat16."""
    if "small" not in request.node.name:
        monkeypatch.setattr(precisions, "_SMALL", 0)


def learned(model, guide, *args):
    networks = NetworkAutocast()
    pair = networks.wrap(model), networks.wrap(guide)
    networks.learn(lambda: Trace_ELBO().loss(*pair, *args))
    return pair


def rounded(tensor):
    """Whether bfloat16 represents all values exactly."""
    return torch.equal(tensor.float(), tensor.bfloat16().float())


def dtypes(trace):
    found = {}
    for name, site in trace.nodes.items():
        if site["type"] == "sample" and name != "data":
            inner = site["fn"].base_dist
            found[name] = {site["value"].dtype, inner.loc.dtype, site["log_prob"].dtype}
    return found


@pytest.mark.parametrize("kind", ["functions", "modules", "methods", "pyro_modules"])
def test_networks_rounded_distributions_not(kind):
    model, guide = kinds.make(kind, 0)
    seen = []
    linears = [
        part
        for _, network in pvae.pair.discovery.reach({"model": model, "guide": guide}, nn.Module)
        for part in network.modules()
        if isinstance(part, nn.Linear)
    ]
    for part in linears:
        part.register_forward_hook(lambda module, args, output: seen.append(rounded(output)))
    model, guide = learned(model, guide, X)
    seen.clear()
    guide_trace = poutine.trace(guide).get_trace(X)
    model_trace = poutine.trace(poutine.replay(model, guide_trace)).get_trace(X)
    assert seen
    assert all(seen)
    for trace in (guide_trace, model_trace):
        trace.compute_log_prob()
        for name, found in dtypes(trace).items():
            assert found == {torch.float32}, name


@needs_bfloat16
@pytest.mark.parametrize("engine", ["eager", "recorded", "captured"])
def test_steps_near_float32(engine):
    losses = {}
    for precision in ("float32", "bfloat16"):
        pyro.set_rng_seed(0)
        with pyro.get_param_store().scope():
            model, guide = kinds.make("functions", 0)
            svi = pvae.SVI(
                model, guide, torch.optim.SGD, Trace_ELBO(), engine=engine, precision=precision
            )
            pyro.set_rng_seed(1)
            losses[precision] = torch.tensor([svi.step(X) for _ in range(8)])
            assert svi.notes == []
            assert {p.dtype for p in pyro.get_param_store()._params.values()} == {torch.float32}
    torch.testing.assert_close(losses["bfloat16"], losses["float32"], rtol=1e-2, atol=0)
    assert not torch.equal(losses["bfloat16"], losses["float32"])


def test_sampling_layer_stays_float32():
    layer = PyroModule[nn.Linear](3, 3)
    layer.weight = PyroSample(dist.Normal(0.0, 1.0).expand([3, 3]).to_event(2))
    decoder = linear(3, 3)
    seen = {}
    layer.register_forward_hook(lambda m, a, output: seen.update(layer=rounded(output)))
    decoder.register_forward_hook(lambda m, a, output: seen.update(decoder=rounded(output)))

    def model(x):
        loc = decoder(layer(x))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.sample("weight", dist.Normal(torch.zeros(3, 3), 1.0).to_event(2))

    model, guide = learned(model, guide, X)
    model(X)
    assert seen == {"layer": False, "decoder": True}


@pytest.mark.parametrize("rows", [16, 512])
def test_small_products_stay_float32(rows):
    """Linear layers by the size of their product, recurrent ones by that of a step."""
    large, small, recurrent = linear(784, 400), linear(400, 10), nn.GRU(10, 8, batch_first=True)
    network = nn.Sequential(large, nn.Tanh(), small, nn.Unflatten(1, (2, 5)))
    seen = {}
    large.register_forward_hook(lambda m, a, output: seen.update(large=rounded(output)))
    small.register_forward_hook(lambda m, a, output: seen.update(small=rounded(output)))

    def model(x):
        out = network(x).flatten(1)
        out = recurrent(out[:, None].expand(-1, 3, -1))[0]
        seen["recurrent"] = rounded(out)
        assert out.dtype == torch.float32
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(out.flatten(1), 1.0).to_event(1), obs=torch.ones(rows, 24))

    model, _ = learned(model, lambda x: None, torch.rand(rows, 784))
    model(torch.rand(rows, 784))
    assert seen == {"large": rows == 512, "small": False, "recurrent": False}
    assert not torch.is_autocast_enabled("cpu")


@needs_bfloat16
def test_small_network_takes_the_steps_of_float32():
    losses = {}
    for precision in ("float32", "bfloat16"):
        pyro.set_rng_seed(0)
        with pyro.get_param_store().scope():
            model, guide = kinds.make("functions", 0)
            svi = pvae.SVI(model, guide, torch.optim.SGD, Trace_ELBO(), precision=precision)
            pyro.set_rng_seed(1)
            losses[precision] = [svi.step(X) for _ in range(8)]
    assert losses["bfloat16"] == losses["float32"]


def test_network_that_starts_to_sample_raises():
    class Decoder(nn.Module):
        noisy = False

        def forward(self, x):
            return pyro.sample("noise", dist.Normal(x, 1.0).to_event(2)) if self.noisy else x

    decoder = Decoder()
    model, _ = learned(lambda x: decoder(x), lambda x: None, X)
    Decoder.noisy = True
    with pytest.raises(ValueError, match="site 'noise' is sampled inside Decoder"):
        model(X)
    assert not torch.is_autocast_enabled("cpu")


def test_state_restored_after_error():
    def model(x):
        linear(4, 4)(x)

    networks = NetworkAutocast()
    networks.known = True
    with pytest.raises(RuntimeError):
        networks.wrap(model)(X)
    assert not torch.is_autocast_enabled("cpu")
    assert linear(3, 3)(X).dtype == torch.float32


def test_tf32_is_a_matmul_mode():
    before = torch.get_float32_matmul_precision()
    with matmul_precision("tf32"):
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == before
    with matmul_precision("float32"):
        assert torch.get_float32_matmul_precision() == before


def step_once(model, guide, precision):
    pvae.SVI(model, guide, torch.optim.SGD, Trace_ELBO(), precision=precision).step(X)


@pytest.mark.parametrize(
    ("precision", "words"),
    [("float16", "unknown precision 'float16'"), ("tf32", "tf32 is a mode of CUDA devices")],
)
def test_unsupported_precision_raises(precision, words):
    with pytest.raises(ValueError, match=words):
        pvae.fit(*kinds.make("functions", 0), X, precision=precision, device="cpu", progress=False)
    with pytest.raises(ValueError, match=words):
        step_once(*kinds.make("functions", 0), precision)


def test_cpu_without_bfloat16_raises(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    with pytest.raises(ValueError, match="has no bfloat16"):
        check_precision("bfloat16", torch.device("cpu"))


@needs_bfloat16
def test_fit_in_bfloat16(tmp_path):
    fits = {
        precision: pvae.fit(
            *kinds.make("methods", 0), X, epochs=20, precision=precision, progress=False,
            out=tmp_path / precision,
        )
        for precision in ("float32", "bfloat16")
    }  # fmt: skip
    last = {name: fit.history[-1]["train_loss"] for name, fit in fits.items()}
    assert last["bfloat16"] == pytest.approx(last["float32"], rel=2e-2)
    assert last["bfloat16"] != last["float32"]
