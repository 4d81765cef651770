import json
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import callables as kinds
from torch import nn

import pvae
from pvae.training.files import write_tensors

KINDS = list(kinds.KINDS)
X = kinds.toy_data()


def train(kind, **options):
    model, guide = kinds.make(kind, seed=0)
    options = {"epochs": 2, "batch_size": 32, "learning_rate": 0.01, "progress": False} | options
    return model, guide, pvae.fit(model, guide, X, **options)


def tensors(fit):
    """All trained tensors by name: parameters and buffers."""
    state = fit.model.pair.state_dict()
    flat = {f"{n}.{k}": v for n, part in state["networks"].items() for k, v in part.items()}
    return flat | state["params"]


@pytest.mark.parametrize("kind", KINDS)
def test_all_parameters_trained(kind):
    model, guide = kinds.make(kind, seed=0)
    before = tensors(pvae.fit(model, guide, X, epochs=0, progress=False))
    after = tensors(pvae.fit(model, guide, X, epochs=1, batch_size=32, progress=False))
    assert before.keys() == after.keys()
    # decoder (2), scale (1), encoder (2 linear layers: 3, BatchNorm: 2 and 3 buffers)
    assert len(before) == 11
    for name, value in before.items():
        assert not torch.equal(value, after[name]), name


@pytest.mark.parametrize("kind", KINDS)
def test_fit_evaluates_trained_pair(kind):
    _, _, fit = train(kind, epochs=40)
    assert len(pyro.get_param_store()) == 0
    trained = pvae.elbo(fit.model, fit.guide, X, num_particles=8)
    _, _, untrained = train(kind, epochs=0)
    assert trained.mean > pvae.elbo(untrained.model, untrained.guide, X, 8).mean + 0.5
    assert len(pyro.get_param_store()) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_train_and_eval_mode(kind):
    modes = []
    model, guide = kinds.make(kind, seed=0)
    fit = pvae.fit(model, guide, X, epochs=0, progress=False)
    parts = [part for net in fit.model.pair.networks.values() for part in net.modules()]
    assert not any(part.training for part in parts)
    (norm,) = (part for part in parts if isinstance(part, nn.BatchNorm1d))
    norm.register_forward_pre_hook(lambda part, _: modes.append(part.training))
    pvae.fit(model, guide, X, epochs=1, batch_size=48, valid=X, progress=False)
    assert [mode for mode, _ in groupby(modes)][-2:] == [True, False]  # batches, then validation


@pytest.mark.parametrize("kind", KINDS)
def test_fits_are_independent(kind):
    _, _, first = train(kind)
    before = pvae.elbo(first.model, first.guide, X).mean
    train(kind, seed=5, epochs=3)
    assert pvae.elbo(first.model, first.guide, X).mean == before


@pytest.mark.parametrize("kind", KINDS)
def test_training_continues_from_fit(kind):
    _, _, first = train(kind, epochs=3)
    reached = pvae.elbo(first.model, first.guide, X, 8).mean
    again = pvae.fit(first.model, first.guide, X, epochs=30, batch_size=32, progress=False)
    assert pvae.elbo(again.model, again.guide, X, 8).mean > reached
    assert again.model.fn is first.model.fn


LOADING = """
import importlib.util, json, sys, torch
sys.path.insert(0, sys.argv[1])
from pairs import callables as kinds
import pvae
for kind in kinds.KINDS:
    model, guide = kinds.make(kind, seed=99)
    fit = pvae.load(f"{sys.argv[2]}/{kind}", model=model, guide=guide)
    print(json.dumps([kind, pvae.elbo(fit.model, fit.guide, kinds.toy_data()).mean]))
"""


def test_run_loads_in_new_process(tmp_path):
    reached = {}
    for kind in KINDS:
        _, _, fit = train(kind, out=tmp_path / kind)
        reached[kind] = pvae.elbo(fit.model, fit.guide, X).mean
    code = [sys.executable, "-c", LOADING, str(Path(__file__).parents[1]), str(tmp_path)]
    answer = subprocess.run(code, capture_output=True, text=True, check=True).stdout
    assert dict(map(json.loads, answer.splitlines())) == pytest.approx(reached, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_resumed_fit_matches_uninterrupted(kind, tmp_path):
    _, _, whole = train(kind, epochs=4, out=tmp_path / "whole")
    train(kind, epochs=2, out=tmp_path / "parts")
    model, guide = kinds.make(kind, seed=7)
    options = {"batch_size": 32, "learning_rate": 0.01, "progress": False}
    parts = pvae.fit(model, guide, X, epochs=4, out=tmp_path / "parts", resume=True, **options)
    for name, value in tensors(whole).items():
        torch.testing.assert_close(value, tensors(parts)[name], atol=0, rtol=0)
    losses = [[row["train_loss"] for row in fit.history] for fit in (whole, parts)]
    assert losses[0] == losses[1]


def test_discovery_leaves_state_unchanged():
    model, guide = kinds.make("functions", seed=0)
    before = torch.get_rng_state()
    fit = pvae.fit(model, guide, X, epochs=0, progress=False)
    assert (torch.get_rng_state() == before).all()
    encoder = next(net for net in fit.model.pair.networks.values() if len(net._modules))
    assert encoder[1].num_batches_tracked == 0
    torch.testing.assert_close(encoder[1].running_mean, torch.zeros(8))


def test_two_networks_with_one_name():
    model_net, guide_net = nn.Linear(1, 1), nn.Linear(1, 1)

    def model(x):
        pyro.module("net", model_net)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(model_net(z), 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("net", guide_net)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(guide_net(x), 1.0).to_event(1))

    before = [model_net.weight.item(), guide_net.weight.item()]
    pvae.fit(model, guide, torch.randn(20, 1), epochs=1, batch_size=20, progress=False)
    assert model_net.weight.item() != before[0]
    assert guide_net.weight.item() != before[1]


def test_imported_network_and_frozen_part():
    from pyro import module as register

    net = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))
    net[0].weight.requires_grad_(False)

    def model(x):
        register("net", net)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(net(x * 0 + 1), 1.0).to_event(1), obs=x)

    frozen, mean = net[0].weight.item(), net[1].running_mean.clone()
    net[1].eval()
    with pytest.warns(UserWarning, match=r"0.weight was not registered"):
        pvae.fit(model, lambda x: None, torch.randn(8, 1), epochs=2, batch_size=4, progress=False)
    assert net[0].weight.item() == frozen
    # A BatchNorm in eval mode inside a network in train mode is frozen on purpose.
    torch.testing.assert_close(net[1].running_mean, mean)


def test_unregistered_network_is_named():
    net = nn.Linear(1, 1)

    def model(x):
        scale = pyro.param("scale", torch.ones(()))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(net(x * 0), scale).to_event(1), obs=x)

    before = net.bias.item()
    fit = pvae.fit(model, lambda x: None, torch.randn(8, 1), epochs=1, batch_size=8, progress=False)
    assert net.bias.item() == before
    line = model.__code__.co_firstlineno + 3
    said = "network 'net' is used but not passed to pyro.module: it is not trained"
    assert [note for note in fit.notes if "'net'" in note] == [
        f"tests/pair/test_pair.py:{line}: {said}"
    ]


def test_saved_values_of_another_pair_raise(tmp_path):
    train("functions", out=tmp_path / "run")
    with pytest.raises(ValueError, match=r"the saved networks are .*the pair's are"):
        pvae.load(tmp_path / "run", model=(both := kinds.make("methods", 0))[0], guide=both[1])


def test_loading_executes_no_pickle(tmp_path):
    train("functions", out=tmp_path / "run")
    marker = tmp_path / "executed"

    class Evil:
        def __reduce__(self):
            return (Path.touch, (marker,))

    write_tensors(tmp_path / "run" / "checkpoint.pt", {"pair": Evil()})
    model, guide = kinds.make("functions", 0)
    with pytest.raises(ValueError, match="more than tensors and plain values"):
        pvae.load(tmp_path / "run", model=model, guide=guide)
    assert not marker.exists()


def test_fit_in_pyro_svi():
    _, _, fit = train("functions")
    svi = pyro.infer.SVI(
        fit.model, fit.guide, pyro.optim.Adam({"lr": 0.02}), pyro.infer.Trace_ELBO()
    )
    losses = [svi.step(X) for _ in range(40)]
    assert sum(losses[-5:]) < sum(losses[:5])
    assert len(pyro.get_param_store()) == 0


def test_store_restored_after_error():
    pyro.param("mine", torch.ones(2))

    def model(x):
        pyro.param("theirs", torch.zeros(()))
        raise RuntimeError("boom")

    with pytest.raises(ValueError, match="boom"):
        pvae.fit(model, lambda x: None, X, progress=False)
    assert list(pyro.get_param_store()) == ["mine"]


def test_guide_from_model_and_network_in_program():
    def model(x):
        w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(w, 0.5).to_event(1), obs=x)

    guide = pyro.infer.autoguide.AutoDiagonalNormal(model)
    options = {"batch_size": 32, "epochs": 100, "learning_rate": 0.05, "progress": False}
    pvae.fit(model, guide, X, **options)
    exact = X.sum(0) * 4 / (1 + 4 * len(X))
    torch.testing.assert_close(guide.median()["w"], exact, atol=0.05, rtol=0)

    def made_inside(x):
        net = pyro.module("net", nn.Linear(3, 3), update_module_params=True)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(net(x), 1.0).to_event(1), obs=x)

    fit = pvae.fit(made_inside, lambda x: None, X, **options)
    assert pvae.elbo(fit.model, fit.guide, X).mean > -3 * 0.92 - 0.05  # the optimum is the identity


def test_trained_model_with_new_guide():
    _, _, first = train("functions")
    new = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2, affine=False), nn.Dropout(0.9))

    def guide(x):
        pyro.module("new", new)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(new(x), 0.5).to_event(1))

    before, scale = new[0].weight.clone(), first.model.pair.parameters()["scale"].item()
    mean = new[1].running_mean.clone()
    raw = pvae.elbo(first.model, guide, X, 4)
    assert raw.mean == pvae.elbo(first.model, guide, X, 4).mean  # eval mode: no dropout
    torch.testing.assert_close(new[1].running_mean, mean)
    second = pvae.fit(first.model, guide, X, epochs=1, batch_size=32, progress=False)
    assert second.guide.fn is guide
    assert not torch.equal(new[0].weight, before)
    after = second.model.pair.parameters()["scale"].item()
    assert abs(after - scale) < 0.05  # starts from the result of the first fit


def test_frozen_network_stays_in_eval_mode():
    frozen = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).eval().requires_grad_(False)
    encoder = nn.Linear(3, 2)
    model, _ = kinds.make("functions", 0)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(encoder(frozen(x)), 0.5).to_event(1))

    pvae.fit(model, guide, 5 * X, epochs=2, batch_size=32, progress=False)
    torch.testing.assert_close(frozen[1].running_mean, torch.zeros(3))
