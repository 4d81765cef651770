"""Checkpoints in mid-epoch: a training that goes on from any of them is as if it never stopped."""

import os
import random
import shutil
import signal

import numpy as np
import pytest
import torch
from pairs import callables as kinds
from torch.utils.data import DataLoader, Dataset, IterableDataset

import pvae
from pvae.training.run import Run

X = kinds.toy_data()
STEPS = {"epochs": 3, "batch_size": 20, "progress": False}


class Noisy(Dataset):
    """Augmented by each of the generators that a user may draw from."""

    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        return X[i] + 0.1 * torch.randn(3) + 0.1 * np.random.randn() + 0.1 * random.random()


class Stream(IterableDataset):
    """Without an end and without a state; its numbers come from its own generator."""

    def __iter__(self):
        generator = torch.Generator().manual_seed(0)
        while True:
            yield torch.randn(3, generator=generator)


class Stateful(IterableDataset):
    """A stream that knows where it is, and can be read once in a process."""

    def __init__(self):
        self.at, self.read = 0, 0

    def __iter__(self):
        while True:
            self.at, self.read = self.at + 1, self.read + 1
            yield torch.randn(3, generator=torch.Generator().manual_seed(self.at))

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


DATA = {
    "rows": (lambda: X, {}),
    "binarized": (lambda: pvae.data.Rows(X.sigmoid(), binarize="dynamic"), {}),
    "data set": (Noisy, {}),
    "loader": (lambda: DataLoader(Noisy(), batch_size=20, shuffle=True), {}),
    "stream": (Stream, {"steps_per_epoch": 5}),
    "stateful": (Stateful, {"steps_per_epoch": 5}),
}


def fit(data, out, **options):
    return pvae.fit(*kinds.make("functions", 0), data, out=out, **{**STEPS, **options})


def outcome(fitted):
    rows = [
        {k: v for k, v in row.items() if k not in ("seconds", "loading", "examples_per_second")}
        for row in fitted.history
    ]
    return rows, [p.tolist() for p in fitted.model.pair.parameters().values()]


def copies_of_each_checkpoint(monkeypatch, to):
    """Copy the run folder after every checkpoint; returns the list of copies."""
    copies, save = [], Run.save

    def save_and_copy(self, state):
        save(self, state)
        copies.append(to / f"copy-{len(copies)}")
        shutil.copytree(self.path, copies[-1])

    monkeypatch.setattr(Run, "save", save_and_copy)
    return copies


@pytest.mark.parametrize("kind", DATA)
def test_resumed_from_each_checkpoint(kind, tmp_path, monkeypatch):
    make, options = DATA[kind]
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    with monkeypatch.context() as patch:
        copies = copies_of_each_checkpoint(patch, tmp_path)
        whole = fit(make(), tmp_path / "whole", save_steps=1, **options)
    assert len(copies) == 1 + 15 + 3
    for copy in copies[::3] if kind == "rows" else copies[1::6]:
        torch.rand(3)
        assert outcome(fit(make(), copy, resume=True, **options)) == outcome(whole), copy


@pytest.mark.parametrize("engine", ["eager", "recorded", "captured"])
def test_engines_resume_in_mid_epoch(engine, tmp_path, monkeypatch):
    options = {"engine": engine, "clip_norm": 1.0, "valid": X[:10], "patience": 2}
    with monkeypatch.context() as patch:
        copies = copies_of_each_checkpoint(patch, tmp_path)
        whole = fit(X, tmp_path / "whole", save_steps=4, **options)
    assert outcome(fit(X, copies[3], resume=True, **options)) == outcome(whole)


def test_a_stream_with_a_state_is_not_read_again(tmp_path):
    options = {"steps_per_epoch": 5}
    fit(Stateful(), tmp_path / "run", **{**options, "epochs": 2})
    stream = Stateful()
    fit(stream, tmp_path / "run", resume=True, **options)
    assert stream.at == 15 * 20
    assert stream.read == 5 * 20 + 20  # the last epoch, and the batch that shows the shapes


def test_minutes(tmp_path, monkeypatch):
    copies = copies_of_each_checkpoint(monkeypatch, tmp_path)
    fit(X, tmp_path / "run", save_minutes=1e-9)
    assert len(copies) == 1 + 15 + 3
    with pytest.raises(ValueError, match="save_minutes is 0: give a number above 0"):
        fit(X, tmp_path / "other", save_minutes=0)


@pytest.fixture
def terminal():
    """Handles SIGINT as in a terminal; a process in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_waits_for_the_step(times, tmp_path):
    """The first one keeps all steps so far; a second one at once those up to the last epoch."""
    model, guide = kinds.make("functions", 0)
    calls = []

    def interrupted(x):
        calls.append(1)
        if len(calls) == 7:
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)
        return guide(x)

    calls.extend([0] * 1000)
    options = {**STEPS, "callback": lambda so_far: calls.clear(), "out": tmp_path / "run"}
    eager = {"batch_size": 10, "engine": "eager"}  # as are the steps of a guide that counts them
    whole = fit(X, None, **eager)
    stopped = pvae.fit(model, interrupted, X, **{**options, **eager})
    assert stopped.stop_reason == "interrupted"
    assert len(stopped.history) == 1
    state = Run(tmp_path / "run").restore()
    assert len(state["partial"].get("sizes", [])) == (7 if times == 1 else 0)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    resumed = fit(X, tmp_path / "run", resume=True, allow_changed=True, **eager)
    assert outcome(resumed) == outcome(whole)


def test_a_diverged_step_goes_back_to_mid_epoch(tmp_path):
    model, guide = kinds.make("functions", 0)

    def diverging(x):
        if diverging.step == 7:
            x = x * float("nan")
        return guide(x)

    diverging.step = 0
    with pytest.raises(pvae.DivergedError, match=r"step 7 on, in epoch 2.*to step 2 of epoch 2"):
        fit_counted(model, diverging, tmp_path / "run")
    assert len(Run(tmp_path / "run").restore()["partial"]["sizes"]) == 2


def fit_counted(model, guide, out):
    """A fit of eager steps that tells the guide their number."""
    from pvae.training.steps import Steps

    step = Steps.take

    def counted(self, batch):
        guide.step = self.state.step
        return step(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Steps, "take", counted)
        return pvae.fit(model, guide, X, out=out, engine="eager", save_steps=1, **STEPS)
