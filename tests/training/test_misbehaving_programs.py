"""Programs that do in mid-epoch what no program should: the run and the pair stay whole."""

import os
import sys
import time

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import callables as kinds
from torch import nn

import pvae
from pvae.training.run import Run

X = kinds.toy_data()
AT = 5  # the call of the guide that misbehaves, in the second of three epochs of 8 steps


class Guide:
    """q(z | x), which calls `act` at one call of a training."""

    def __init__(self, act):
        torch.manual_seed(0)
        self.encoder, self.act, self.calls = nn.Linear(3, 1), act, None

    def __call__(self, x):
        pyro.module("encoder", self.encoder)
        if self.calls is not None:
            self.calls.append(1)
            if len(self.calls) == AT:
                self.act(self)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.encoder(x)[:, 0], 1.0))


def model(x):
    loc = pyro.param("loc", torch.zeros(3))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
        pyro.sample("x", dist.Normal(loc + z[:, None], 1.0).to_event(1), obs=x)


def fit(act, out, **options):
    guide = Guide(act)

    def count(so_far):  # from the end of the first epoch on
        guide.calls = [] if guide.calls is None else guide.calls

    options = {"epochs": 3, "batch_size": 12, "progress": False, "engine": "eager", **options}
    return guide, lambda: pvae.fit(model, guide, X, out=out, callback=count, **options)


def losses(fitted):
    return [row["train_loss"] for row in fitted.history]


def fork(guide):
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


@pytest.mark.parametrize("act", [lambda guide: time.sleep(0.2), fork])
def test_no_effect(act, tmp_path):
    _, train = fit(act, tmp_path / "run")
    _, plain = fit(lambda guide: None, tmp_path / "plain")
    assert losses(train()) == losses(plain())
    with pytest.raises(ValueError, match="already contains a run"):
        fit(act, tmp_path / "run")[1]()


def leave(guide):
    sys.exit(3)


def fail(guide):
    raise ZeroDivisionError("no number")


@pytest.mark.parametrize(("act", "error"), [(leave, SystemExit), (fail, ZeroDivisionError)])
def test_left_as_after_the_last_good_epoch(act, error, tmp_path):
    guide, train = fit(act, tmp_path / "run")
    with pytest.raises(error):
        train()
    state = Run(tmp_path / "run").restore()
    assert state["epoch"] == 1
    assert not guide.encoder.training
    saved = state["pair"]["networks"]["encoder"]["weight"]
    torch.testing.assert_close(guide.encoder.weight.data, saved, rtol=0, atol=0)
    _, plain = fit(lambda guide: None, tmp_path / "plain")
    resumed = fit(lambda guide: None, tmp_path / "run", resume=True)[1]()
    assert losses(resumed) == losses(plain())


@pytest.mark.parametrize("engine", ["eager", "recorded"])
def test_a_program_that_seeds(engine, tmp_path):
    """Training goes on with these numbers, is the same by each engine, and resumes exactly."""
    act = lambda guide: pyro.set_rng_seed(7)  # noqa: E731
    whole = fit(act, tmp_path / "whole")[1]()
    found = fit(act, tmp_path / "run", engine=engine)[1]()
    assert losses(found) == pytest.approx(losses(whole), rel=1e-6)


def test_a_program_that_writes_into_the_run_folder(tmp_path):
    run = tmp_path / "run"

    def act(guide):
        (run / "notes.txt").write_text("mine")
        (run / "checkpoint.pt").write_bytes(b"nothing")
        (run / "metrics.jsonl").write_text("half a li")

    trained = fit(act, run)[1]()
    assert (run / "notes.txt").read_text() == "mine"
    loaded = pvae.load(run, model=model, guide=Guide(None))
    assert losses(loaded) == losses(trained)[1:]
    assert any("lines cannot be read" in note for note in loaded.notes)


def grow(guide):
    guide.encoder.weight = nn.Parameter(torch.zeros(2, 3))
    guide.encoder.bias = nn.Parameter(torch.zeros(2))


def replace(guide):
    guide.encoder = nn.Linear(3, 1)


@pytest.mark.parametrize("act", [grow, replace])
@pytest.mark.parametrize("engine", ["eager", "recorded"])
def test_networks_that_are_replaced(act, engine, tmp_path):
    """Pyro trains those that were registered first, and says nothing."""
    found = fit(act, tmp_path / "run", engine=engine)[1]()
    (note,) = [note for note in found.notes if "had no gradient in epoch 3" in note]
    assert "['encoder$$$weight', 'encoder$$$bias']" in note
    assert note.endswith("if a program has replaced their network, the new one is not trained")
    plain = fit(lambda guide: None, tmp_path / "plain", engine=engine)[1]()
    assert not any("had no gradient" in note for note in plain.notes)


def test_a_registered_parameter_that_changes_its_shape(tmp_path):
    """Registered anew with another shape, it ends the training with a sentence."""

    def act(guide):
        store = pyro.get_param_store()
        del store["loc"]
        pyro.param("loc", torch.zeros(4))

    with pytest.raises(pvae.PairError, match="size of tensor a"):
        fit(act, tmp_path / "run")[1]()
    assert Run(tmp_path / "run").restore()["epoch"] == 1
    resumed = fit(lambda guide: None, tmp_path / "run", resume=True)[1]()
    assert losses(resumed) == losses(fit(lambda guide: None, tmp_path / "plain")[1]())
