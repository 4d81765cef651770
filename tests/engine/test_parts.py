"""A step in parts computes what the whole does, and its last products begin as soon as they can."""

from types import SimpleNamespace

import pyro
import pytest
import torch
from pairs.recordable import PAIRS, X
from pyro.infer import Trace_ELBO
from torch.fx.experimental.proxy_tensor import make_fx

import pvae
from pvae.engine import products, recording
from pvae.engine.draw_order import draws, stages
from pvae.engine.parts import compile_in_parts
from pvae.engine.tails import segments, tails

PRODUCTS = ("mm", "addmm", "bmm")


def flat(model, guide, x):
    """The graph of a step as a GPU executes it, and its inputs."""
    svi = pvae.SVI(model, guide, pyro.optim.SGD({"lr": 1e-4}), Trace_ELBO(), engine="recorded")
    for _ in range(2):
        svi.step(x)
    (entry,) = svi.replay._cache.values()
    found = entry.variants[0].recording
    inputs = [x, *(constant.detach() for constant in found.constants)]
    with torch.no_grad():
        return make_fx(lambda *given: found.graph(*given))(*inputs).graph, found, inputs


@pytest.fixture
def graph(monkeypatch):
    monkeypatch.setattr(recording, "onednn_is_faster", lambda: False)
    torch.manual_seed(0)
    sizes = {"x_shape": (6,), "z_dim": 2, "hidden": 4}
    return flat(pvae.models.VAE(**sizes), pvae.guides.MeanField(**sizes), X.new_ones(8, 6))[0]


def is_product(node):
    return getattr(node.target, "__name__", "").split(".")[0] in PRODUCTS


def test_tails_are_the_gradients_of_weights(graph):
    found = [[node for node in tail if is_product(node)] for tail in tails(graph)]
    assert sorted(map(len, found)) == [0, 1, 1, 1, 1]  # the loss, and four weights
    weights = {(2, 4), (4, 2), (4, 4), (4, 6), (6, 4)}
    assert all(tuple(one[0].meta["val"].shape) in weights for one in found if one)


def test_nothing_else_needs_a_tail(graph):
    ends = tails(graph)
    for tail in ends:
        for node in tail:
            assert {user for user in node.users if user.op != "output"} <= set(tail)


@pytest.mark.parametrize("early", [False, True])
def test_segments_are_all_operations_in_order(graph, early):
    ends = tails(graph)
    late = {node for tail in ends for node in tail}
    nodes = [n for n in graph.nodes if n.op == "call_function" and n not in late]
    found = segments(nodes, ends, early=early)
    assert len(found) == 1 + early
    assert sorted(map(id, nodes)) == sorted(id(node) for own, _ in found for node in own)
    known = set(graph.find_nodes(op="placeholder"))
    for own, begin in found:
        for node in own:
            assert set(node.all_input_nodes) <= known
            known.add(node)
        for tail in begin:
            assert {n for node in tail for n in node.all_input_nodes} <= known | set(tail)
    if early:
        assert any(is_product(node) for node in found[1][0])  # the backward pass goes on
        assert any(is_product(node) for tail in found[0][1] for node in tail)


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize(
    "name", ["functions", "pyro_modules", "methods", "gaussian hierarchy", "flow"]
)
def test_parts_compute_what_the_whole_does(name, early):
    """Also with dropout, the averages of a BatchNorm, and operations with several results."""
    torch.manual_seed(0)
    graph, found, inputs = flat(*PAIRS[name](), X[:8])
    buffers = [inputs[place] for place in found.written]
    before = [buffer.clone() for buffer in buffers]
    seen = []

    def compile_part(part, given):
        seen.append(part)
        return part.forward

    with torch.no_grad():
        run = compile_in_parts(graph, inputs, compile_part, early=early)
        outcomes = []
        for execute in (run, found.run):
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)
            torch.manual_seed(3)
            outcomes.append([*execute(*inputs), *(buffer.clone() for buffer in buffers)])
    assert len(seen) > 2
    for one, other in zip(*outcomes, strict=True):
        assert torch.equal(one, other)


def test_noise_is_drawn_before_the_rest():
    torch.manual_seed(0)
    graph, found, inputs = flat(*PAIRS["gaussian hierarchy"](), X[:8])
    with torch.no_grad():
        run = compile_in_parts(graph, inputs, lambda part, given: part.forward)
        assert run.draws_without(1)
        torch.manual_seed(3)
        begun = run.begin(*inputs)
        torch.manual_seed(4)  # nothing is drawn after that
        got = run.finish(begun)
        torch.manual_seed(3)
        wanted = found.run(*inputs)
    assert all(torch.equal(one, other) for one, other in zip(got, wanted, strict=True))


def test_draws_that_need_parameters_wait_for_them():
    torch.manual_seed(0)
    graph, _, inputs = flat(*PAIRS["bernoulli hierarchy"](), X[:8])
    with torch.no_grad():
        assert not compile_in_parts(graph, inputs, lambda part, given: part.forward).drawn


def test_memory_of_a_draw_depends_on_no_value():
    """As `dropout` allocates its mask in the shape of a value that is computed later."""

    def step(x):
        value = x.tanh()
        return [value * torch.empty_like(value).bernoulli_(0.5)]

    graph = make_fx(step)(torch.zeros(3)).graph
    run = compile_in_parts(graph, [torch.ones(3)], lambda part, given: part.forward)
    assert sorted(set(stages(graph).values())) == [0, 1]
    assert len(draws(graph)) == 1
    torch.manual_seed(0)
    got = run(torch.ones(3))
    torch.manual_seed(0)
    assert torch.equal(got[0], step(torch.ones(3))[0])


# Which kernel computes a product


def choice(name, size, shape=(128, 400), depth=784):
    names = ("BLOCK_M", "BLOCK_N", "BLOCK_K", "num_stages", "num_warps")
    kind = type("ExternKernelChoice" if size is None else "TritonTemplate", (), {"name": name})
    node = SimpleNamespace(get_size=lambda: (depth, shape[1]))
    return SimpleNamespace(
        template=kind(),
        params=SimpleNamespace(to_kwargs=lambda: dict(zip(names, size or (), strict=False))),
        layout=SimpleNamespace(size=shape, device="cuda"),
        inputs=SimpleNamespace(nodes=lambda: [node, node]),
    )


@pytest.mark.parametrize(
    ("shape", "depth", "chosen"),
    [((128, 400), 784, (32, 32, 128, 2, 4)), ((128, 400), 2000, None), ((2048, 2048), 64, None)],
    ids=["small", "deep", "large"],
)
def test_small_products_have_small_tiles(monkeypatch, shape, depth, chosen):
    properties = SimpleNamespace(multi_processor_count=132)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    sizes = [None, (64, 64, 32, 2, 4), (32, 32, 128, 2, 4), (32, 32, 16, 1, 2)]
    choices = [choice("mm", size, shape, depth) for size in sizes]
    choices.append(choice("mm_persistent_tma", (32, 32, 128, 2, 4), shape, depth))
    found = products._choose(choices, (32, 32, 128, 2, 4))
    assert (products._size(found), found in choices[:4]) == (chosen, True)


def test_products_are_the_librarys_without_a_tile(monkeypatch):
    assert products.wanted_tile() is None  # float32
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    assert products.wanted_tile() == (32, 32, 128, 2, 4)
    from torch._inductor import config

    with products.chosen_products(None):
        assert not config.max_autotune_gemm
    with products.chosen_products((32, 32, 128, 2, 4)):
        assert config.max_autotune_gemm
    assert not config.max_autotune_gemm
