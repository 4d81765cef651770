"""Counts of operations, which decide when a step is compiled."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

import pvae
from pvae.engine.costs import products, steps_for_compilation
from pvae.engine.recording import record

N, X, H, Z = 64, 784, 100, 5


def recorded(hidden, n=N):
    """The operations of a step of a VAE."""
    model = pvae.models.VAE(x_shape=(X,), z_dim=Z, hidden=hidden)
    guide = pvae.guides.MeanField(x_shape=(X,), z_dim=Z, hidden=hidden)
    return operations(model, guide, torch.rand(n, X).round())


def operations(model, guide, x):
    pyro.clear_param_store()
    loss_and_grads = pyro.infer.Trace_ELBO().loss_and_grads
    loss_and_grads(model, guide, x)  # registers the parameters
    params = list(pyro.get_param_store()._params.values())
    recording = record(lambda x: loss_and_grads(model, guide, x), params, [], (x,), {})
    return recording.graph.graph


def test_products_of_a_vae():
    """Forward, and backward for weights and inputs, but not for x."""
    weights = [X * H, H * 2 * Z, Z * H, H * X]
    assert products(recorded(H)) == 2 * N * (3 * sum(weights) - weights[0])


def test_products_do_not_depend_on_the_library(monkeypatch):
    counts = []
    for faster in (False, True):
        monkeypatch.setattr("pvae.engine.recording.onednn_is_faster", lambda f=faster: f)
        counts.append(products(recorded(H)))
    assert counts[0] == counts[1]


def test_products_of_a_convolution():
    layer = nn.Conv2d(3, 8, 5, padding=2)
    graph = make_fx(layer)(torch.zeros(2, 3, 10, 10)).graph
    assert products(graph) == 2 * 2 * 8 * 10 * 10 * 3 * 5 * 5


def test_what_cannot_be_counted_counts_nothing():
    """A training must not end because of an estimate."""
    graph = recorded(H)
    whole = products(graph)
    product = next(n for n in graph.nodes if "product" in str(n.target) or "mm" in str(n.target))
    for argument in product.args:
        argument.meta.pop("val", None)
    assert 0 < products(graph) < whole
    assert steps_for_compilation(graph) > 0


def test_a_step_without_operations():
    graph = make_fx(lambda x: x)(torch.zeros(3)).graph
    assert products(graph) == 0
    assert steps_for_compilation(graph) > 5000


def test_sums_have_no_products():
    def program(x):
        return (x + 1).sum()

    assert products(make_fx(program)(torch.zeros(3)).graph) == 0


def test_larger_steps_are_compiled_earlier():
    small, large = (steps_for_compilation(recorded(hidden)) for hidden in (20, 2000))
    assert small > 5000
    assert large < 1000


def test_numbers_of_the_tutorial():
    steps = {hidden: steps_for_compilation(recorded(hidden, 128)) for hidden in (400, 20)}
    assert round(steps[400], -2) == 1600
    assert 5 < steps[20] / steps[400] < 6


@pytest.mark.parametrize("hidden", [20, 400])
def test_compilation_begins_with_this_step(hidden):
    """The rule, written out: seconds of the compilation over seconds of a step."""
    graph = recorded(hidden)
    calls = sum(node.op == "call_function" for node in graph.nodes)
    step = 5e-6 * calls + 1e-11 * products(graph)
    assert (steps_for_compilation(graph) - 1) * step < 5 + 0.02 * calls
    assert steps_for_compilation(graph) * step >= 5 + 0.02 * calls


def test_recordings_of_a_pair_of_functions():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        scale = pyro.param("scale", torch.tensor(1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, scale))

    graph = operations(model, guide, torch.zeros(3))
    assert products(graph) == 0
    assert steps_for_compilation(graph) > 5000
