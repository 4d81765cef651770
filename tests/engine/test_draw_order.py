"""Random operations are executed in the recorded order, whatever a compiler does around them."""

import pyro
import pytest
import torch
from pairs.recordable import PAIRS, X
from pyro.infer import Trace_ELBO
from torch.fx.experimental.proxy_tensor import make_fx

import pvae
from pvae.engine import inductor
from pvae.engine.draw_order import draws, stages
from pvae.engine.parts import compile_in_parts

HIERARCHIES = ("gaussian hierarchy", "bernoulli hierarchy", "markov")


def recorded(name):
    """The graph of a step of a pair, and its inputs."""
    torch.manual_seed(0)
    with pyro.get_param_store().scope():
        model, guide = PAIRS[name]()
        optim = pyro.optim.SGD({"lr": 1e-4})
        svi = pvae.SVI(model, guide, optim, Trace_ELBO(), engine="recorded")
        for _ in range(2):
            svi.step(X[:8])
    (entry,) = svi.replay._cache.values()
    recording = entry.variants[0].recording
    return recording, [X[:8], *(constant.detach() for constant in recording.constants)]


@pytest.mark.parametrize("name", HIERARCHIES)
def test_stages_keep_the_order(name):
    graph = recorded(name)[0].graph.graph
    stage, order = stages(graph), draws(graph)
    assert len(order) > 1
    assert [stage[node] for node in order] == sorted(stage[node] for node in order)
    assert all(number % 2 == (node not in order) for node, number in stage.items()
               if not node.target.__name__.startswith("empty"))  # fmt: skip
    for node, number in stage.items():
        assert all(stage.get(other, 0) <= number for other in node.all_input_nodes)


def test_noise_is_drawn_first():
    assert set(stages(recorded("gaussian hierarchy")[0].graph.graph).values()) == {0, 1}


@pytest.mark.parametrize("name", HIERARCHIES)
def test_parts_without_draws_are_compiled(name):
    """Compiled parts contain no draw, and the whole draws and returns what the recording does."""
    recording, inputs = recorded(name)
    compiled = []

    def compile_part(part, given):
        compiled.append(part)
        return part.forward

    with torch.no_grad():
        run = compile_in_parts(recording.graph.graph, inputs, compile_part)
        torch.manual_seed(3)
        wanted = recording.run(*inputs)
        torch.manual_seed(3)
        got = run(*inputs)
    assert all(not draws(part.graph) for part in compiled)
    for one, other in zip(got, wanted, strict=True):
        assert torch.equal(one, other)


def test_compiled_on_a_device_with_one_launch(monkeypatch):
    """The whole compilation, as it is for CUDA devices."""
    monkeypatch.setattr(inductor, "on_cuda", lambda tensors: True)
    recording, inputs = recorded("bernoulli hierarchy")
    compiled = inductor.compile_recording(recording, inputs[:1])
    torch.manual_seed(3)
    wanted = recording([inputs[0]])
    torch.manual_seed(3)
    got = compiled([inputs[0]])
    torch.testing.assert_close(got.losses, wanted.losses)
    torch.testing.assert_close(got.gradients, wanted.gradients)


def test_reordered_draws_are_found():
    """What the stages are for: draws in another order are other numbers."""

    def step(x):
        first, second = torch.randn(3), torch.rand(3)
        return [x + first, x * second]

    graph = make_fx(step)(torch.zeros(3)).graph
    first, second = draws(graph)
    run = compile_in_parts(graph, [torch.zeros(3)], lambda part, given: part.forward)
    torch.manual_seed(0)
    ordered = run(torch.zeros(3))
    first.prepend(second)
    torch.manual_seed(0)
    reordered = torch.fx.GraphModule(torch.nn.Module(), graph)(torch.zeros(3))
    assert not torch.equal(ordered[0], reordered[0])
