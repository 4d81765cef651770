"""Compiled steps on disk change waiting times, and nothing else."""

import json
import subprocess
import sys

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from pvae.engine import inductor, library

SCRIPT = """
import json, sys
import torch
import pvae
from pyro.infer import Trace_ELBO

torch.manual_seed(0)
x = torch.rand(16, 9).round()
model = pvae.models.VAE(x_shape=(9,), z_dim=2, hidden=5)
guide = pvae.guides.MeanField(x_shape=(9,), z_dim=2, hidden=5)
svi = pvae.SVI(model, guide, torch.optim.Adam, Trace_ELBO(), engine="captured")
losses = [svi.step(x).hex() for _ in range(20)]
found = {"losses": losses, "engine": svi.engine, "notes": svi.notes}
found["compiler"] = "torch._inductor.lowering" in sys.modules
print(json.dumps(found))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PVAE_CACHE", str(tmp_path))
    return tmp_path / "steps"


def test_two_starts_give_the_same_numbers(folder):
    def start():
        command = [sys.executable, "-c", SCRIPT]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    cold = start()
    assert cold["engine"] == "compiled since step 2: 19 of 20 steps replayed"
    assert cold["compiler"]
    (kept,) = folder.iterdir()
    assert kept.stat().st_mode & 0o077 == 0
    warm = start()
    assert not warm.pop("compiler")
    assert warm == {name: value for name, value in cold.items() if name != "compiler"}


def compiled(function, *inputs, written=()):
    """The function's graph from disk or from the compiler, and its key."""
    graph = make_fx(function)(*[x.clone() for x in inputs])
    key = library.graph_key(graph, inputs)
    run = library.kept_library(key)
    if run is None:
        run = library.keep_library(key, inductor._compile(graph, inputs), inputs, written)
    return run, key


def average(x, mean):
    mean.mul_(0.9).add_(x.mean(0), alpha=0.1)
    return [(x - mean).tanh().sum(), torch.randn(3)]


def test_what_the_graph_writes_and_draws(folder):
    x, mean = torch.randn(6, 3), torch.zeros(3)
    for _ in range(2):  # compiled, and from disk
        mean.zero_()
        run, key = compiled(average, x, mean, written=[1])
        assert run.__module__ == library.__name__
        assert torch.equal(mean, torch.zeros(3))
        torch.manual_seed(1)
        with torch.no_grad():
            got = run(x, mean)
        other = torch.zeros(3)
        torch.manual_seed(1)
        expected = average(x, other)
        torch.testing.assert_close(list(got), expected)
        torch.testing.assert_close(mean, other)
    assert [path.name.partition("-")[0] for path in folder.iterdir()] == [key]


@pytest.mark.parametrize("damage", [lambda b: b[:1000], lambda b: b[:50] + b"!" + b[51:]])
def test_a_damaged_library_is_compiled_anew(damage, folder):
    _, key = compiled(lambda x: [x.cos()], torch.ones(2))
    (path,) = folder.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    assert library.kept_library(key) is None
    run, _ = compiled(lambda x: [x.cos()], torch.ones(2))
    torch.testing.assert_close(run(torch.zeros(2))[0], torch.ones(2))


def test_a_library_of_another_user_is_not_executed(folder, monkeypatch):
    _, key = compiled(lambda x: [x.cos()], torch.ones(2))
    assert library.kept_library(key) is not None
    monkeypatch.setattr(library.os, "getuid", lambda: -1)
    assert library.kept_library(key) is None


def test_a_result_that_is_an_input_is_left_to_torch(folder):
    """The library returns less, or other tensors, than the graph."""
    x = torch.randn(3)
    run, _ = compiled(lambda x: [x, x.view(3, 1), x.exp()], x)
    same, view, other = run(x)
    assert same.data_ptr() == view.data_ptr() == x.data_ptr()
    torch.testing.assert_close(other, x.exp())


def test_keys():
    x = torch.ones(4, 3)
    graph = make_fx(lambda x: x * 2)(x)
    key = library.graph_key(graph, [x])
    assert key == library.graph_key(make_fx(lambda x: x * 2)(x), [x])
    others = [x.double(), torch.ones(3, 4).t(), torch.ones(5, 3)]
    assert key not in {library.graph_key(graph, [other]) for other in others}
    assert key != library.graph_key(make_fx(lambda x: x * 3)(x), [x])


def test_without_a_folder_that_can_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PVAE_CACHE", str(tmp_path / "file"))
    run, key = compiled(lambda x: [x.sin()], torch.ones(2))
    torch.testing.assert_close(run(torch.zeros(2))[0], torch.zeros(2))
    assert library.kept_library(key) is None


def test_the_oldest_libraries_are_removed(folder, monkeypatch):
    def times(n):
        return lambda x: [x * n]

    monkeypatch.setattr(library, "_MOST", 2)
    keys = [compiled(times(n), torch.ones(2))[1] for n in (1.5, 2.5, 3.5)]
    assert [library.kept_library(key) is not None for key in keys] == [False, True, True]
    assert len(list(folder.iterdir())) == 2
