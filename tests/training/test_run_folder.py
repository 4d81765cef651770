"""A run folder loses nothing, hurts nothing, and says what is damaged."""

import contextlib
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from matplotlib.figure import Figure
from pairs import callables as kinds

import pvae
from pvae.training.files import (
    DamagedError,
    read_json,
    read_tensors,
    write,
    write_json,
    write_tensors,
)
from pvae.training.lock import Lock
from pvae.training.run import Run

X = kinds.toy_data()


def fit(out, **options):
    options = {"epochs": 2, "batch_size": 32, "progress": False} | options
    return pvae.fit(*kinds.make("functions", 0), X, out=out, **options)


def load(out):
    model, guide = kinds.make("functions", 3)
    return pvae.load(out, model=model, guide=guide)


def losses(fitted):
    return [row["train_loss"] for row in fitted.history]


def files_of(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def flipped(content, bit):
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.mark.parametrize("overwrite", [False, True])
def test_folders_of_others_are_refused(tmp_path, overwrite, monkeypatch):
    (tmp_path / "figures").mkdir()
    for name in ("summary.json", "metrics.jsonl", "example.pt", "config.json", "figures/a.png"):
        (tmp_path / name).write_text("mine")
    before = files_of(tmp_path)
    monkeypatch.chdir(tmp_path)
    for out in (tmp_path, ".", ""):
        with pytest.raises(ValueError, match="contains files and is no run: give a new folder"):
            fit(out, overwrite=overwrite)
    assert files_of(tmp_path) == before


def test_only_files_of_the_run_are_removed(tmp_path):
    fit(tmp_path, keep=2)
    run = Run(tmp_path)
    run.save_figure("drawn", Figure())
    run.write_summary({**run.summary(), "figures": ["drawn", "../mine"]})
    (tmp_path / "notes.txt").write_text("mine")
    for name in ("mine.png", "figures/mine.png"):
        (tmp_path / name).write_text("mine")
    fit(tmp_path, overwrite=True, epochs=0)
    left = {str(path) for path in files_of(tmp_path)}
    assert {"notes.txt", "mine.png"} <= left
    assert "figures/drawn.png" not in left
    assert "checkpoint-1.pt" not in left


def test_links_are_not_followed(tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.png").write_text("mine")
    fit(tmp_path / "run")
    run = Run(tmp_path / "run")
    (run.path / "figures").symlink_to(other)
    run.write_summary({**run.summary(), "figures": ["a"]})
    with pytest.raises(ValueError, match="figures is a link"):
        run.save_figure("a", Figure())
    for name in ("checkpoint.pt", "checkpoint.pt.tmp", "summary.json.tmp"):
        (run.path / name).unlink(missing_ok=True)
        (run.path / name).symlink_to(other / "a.png")
    fit(run.path, overwrite=True)
    log = run.path / "metrics.jsonl"
    log.unlink()
    log.symlink_to(other / "a.png")
    with pytest.raises(ValueError, match=r"metrics.jsonl is a link"):
        fit(run.path, resume=True, epochs=3)
    log.unlink()
    assert files_of(other) == {(other / "a.png").relative_to(other): b"mine"}
    assert load(run.path).history == []


@pytest.mark.parametrize("flips", [40, pytest.param(1000, marks=pytest.mark.slow)])
def test_no_flipped_bit_is_silent(tmp_path, flips):
    fit(tmp_path)
    generator = random.Random(0)
    for name in ("checkpoint.pt", "example.pt", "config.json", "summary.json"):
        path = tmp_path / name
        content = path.read_bytes()
        for _ in range(flips):
            path.write_bytes(flipped(content, generator.randrange(8 * len(content))))
            with pytest.raises(DamagedError, match=rf"{name} is damaged, or was changed"):
                load(tmp_path)
        path.write_bytes(content)
    load(tmp_path)


@pytest.mark.parametrize("cuts", [5, pytest.param(200, marks=pytest.mark.slow)])
def test_no_truncation_is_silent(tmp_path, cuts):
    fit(tmp_path)
    for name in ("checkpoint.pt", "example.pt", "config.json", "summary.json"):
        path = tmp_path / name
        content = path.read_bytes()
        for cut in range(cuts):
            path.write_bytes(content[: cut * len(content) // cuts])
            with pytest.raises(DamagedError, match=rf"{name} is damaged, or was changed"):
                load(tmp_path)
        path.write_bytes(content)


def test_files_that_are_none(tmp_path):
    fit(tmp_path)
    path = tmp_path / "checkpoint.pt"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ValueError, match=r"checkpoint.pt cannot be read: it is no ordinary file"):
        load(tmp_path)
    path.unlink()
    write_tensors(path, {"code": os.getcwd})
    with pytest.raises(ValueError, match=r"checkpoint.pt cannot be loaded: it has more than"):
        load(tmp_path)


def test_checkpoint_before_a_damaged_one(tmp_path):
    whole = fit(tmp_path / "whole", epochs=4)
    fit(tmp_path / "run", epochs=3, keep=3)
    path = tmp_path / "run" / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:-1])
    assert "the checkpoint before it is used" in load(tmp_path / "run").notes[-1]
    resumed = fit(tmp_path / "run", epochs=4, keep=3, resume=True)
    assert losses(resumed) == losses(whole)
    assert any("checkpoint.pt is damaged" in note for note in resumed.notes)
    names = sorted(p.name for p in (tmp_path / "run").glob("*.pt"))
    assert names == ["checkpoint-1.pt", "checkpoint-2.pt", "checkpoint.pt", "example.pt"]


def test_a_damaged_checkpoint_takes_no_good_ones_place(tmp_path, monkeypatch):
    fit(tmp_path, epochs=3, keep=2)
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:-1])

    def fails(*_):
        raise OSError("disk full")

    run = Run(tmp_path, keep=2)
    state = run.restore()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdopen", fails)
        with pytest.raises(OSError, match="disk full"):
            run.save(state)
    assert Run(tmp_path).restore()["epoch"] == state["epoch"]


def test_files_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    write_tensors(path, {"value": torch.ones(3)})

    def fails(*_):
        raise OSError("disk full")

    for name in ("fsync", "fdopen"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fails)
            with pytest.raises(OSError, match="disk full"):
                write_tensors(path, {"value": torch.zeros(3)})
        assert read_tensors(path)["value"].sum() == 3
        assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]
    write(path, b"")
    with pytest.raises(DamagedError):
        read_tensors(path)
    write_json(path, {"a": [1, 2.5, None], "b": {"sha256": "c"}})
    assert read_json(path) == {"a": [1, 2.5, None], "b": {"sha256": "c"}}


@pytest.mark.parametrize("stride", [6, pytest.param(1, marks=pytest.mark.slow)])
def test_every_failure_of_the_disk_is_recovered_from(tmp_path, monkeypatch, stride):
    whole = fit(tmp_path / "whole")
    calls = [(os, "fsync"), (os, "fdopen"), (os, "open"), (Path, "replace"), (Path, "open")]
    failed, k = True, 0
    while failed:
        out, failed, left = tmp_path / f"run-{k}", False, k

        def counted(original):
            def call(*args, **kwargs):
                nonlocal left, failed
                left -= 1
                if left == -1:
                    failed = True
                    raise OSError("no space left on device")
                return original(*args, **kwargs)

            return call

        with monkeypatch.context() as patch:
            for owner, name in calls:
                patch.setattr(owner, name, counted(getattr(owner, name)))
            with contextlib.suppress(OSError):
                fit(out)
        assert losses(fit(out, resume=Run(out).exists)) == losses(whole)
        assert losses(load(out)) == losses(whole)
        k += stride
    assert k > 20


def test_metrics_are_a_log(tmp_path):
    whole = fit(tmp_path / "whole", epochs=4)
    fit(tmp_path / "run", epochs=2)
    log = tmp_path / "run" / "metrics.jsonl"
    first = log.read_bytes()
    stale = json.dumps({"epoch": 3, "train_loss": 0.0, "seconds": 1.0})
    log.write_bytes(first + f'{stale}\n{{"epoch": 4, "tr'.encode())
    assert "1 lines cannot be read, and are left out" in load(tmp_path / "run").notes[-1]
    resumed = fit(tmp_path / "run", epochs=4, resume=True)
    assert losses(resumed) == losses(whole)
    assert log.read_bytes().startswith(first + stale.encode())
    assert losses(load(tmp_path / "run")) == losses(whole)


def test_changed_metrics_are_no_obstacle_and_noted(tmp_path):
    fit(tmp_path)
    log = tmp_path / "metrics.jsonl"
    log.write_bytes(log.read_bytes().replace(b'"step": 3', b'"step": 4'))
    found = load(tmp_path)
    assert len(found.history) == 2
    assert "metrics.jsonl is damaged, or was changed" in found.notes[-1]
    log.write_bytes(log.read_bytes().replace(b"train_loss", b"train_lost"))
    assert "2 lines cannot be read" in load(tmp_path).notes[-1]
    log.unlink()
    assert load(tmp_path).history == []
    options = {"epochs": 4, "valid": X[:20], "patience": 9}
    fit(tmp_path / "run", **options)
    (tmp_path / "run" / "metrics.jsonl").unlink()
    resumed = fit(tmp_path / "run", resume=True, **{**options, "epochs": 5})
    assert [row["epoch"] for row in resumed.history] == [5]


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_killed_before_its_first_checkpoint(tmp_path, resume):
    whole = fit(tmp_path / "whole")
    fit(tmp_path / "run", epochs=0)
    (tmp_path / "run" / "checkpoint.pt").unlink()
    assert losses(fit(tmp_path / "run", resume=resume)) == losses(whole)


HOLD = """
import sys
from pathlib import Path
from pvae.training.lock import Lock
Lock(Path(sys.argv[1])).acquire()
print("held", flush=True)
sys.stdin.read()
"""


def test_one_training_for_each_folder(tmp_path):
    fit(tmp_path)
    command = [sys.executable, "-c", HOLD, str(tmp_path / ".pvae-run")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as process:
        process.stdout.readline()
        for options in ({"resume": True, "epochs": 3}, {"overwrite": True}):
            with pytest.raises(ValueError, match="is being trained by another process"):
                fit(tmp_path, **options)
        assert load(tmp_path).history
        process.kill()  # the lock dies with its process
    fit(tmp_path, resume=True, epochs=3)
    lock = Lock(tmp_path / ".pvae-run")
    lock.acquire()
    with pytest.raises(ValueError, match="is being trained"):
        fit(tmp_path, resume=True, epochs=4)  # by this process
    lock.release()


@pytest.mark.parametrize("kind", [RuntimeError, SystemExit])
def test_everything_is_put_back_after_a_failure(tmp_path, kind):
    model, guide = kinds.make("modules", 0)
    good = {}

    def callback(fitted):
        if len(fitted.history) == 1:
            good.update({n: p.clone() for n, p in model.state_dict().items()})
            return
        raise kind("a callback of the user's")

    options = {"epochs": 3, "batch_size": 32, "progress": False, "out": tmp_path}
    with pytest.raises(kind):
        pvae.fit(model, guide, X, callback=callback, **options)
    assert not model.training
    assert not guide.training
    assert all(torch.equal(good[n], p) for n, p in model.state_dict().items())
    resumed = pvae.fit(model, guide, X, resume=True, **options)  # the lock is free
    whole = pvae.fit(*kinds.make("modules", 0), X, **{**options, "out": None})
    assert losses(resumed) == losses(whole)


def test_resume_with_other_data_or_programs_is_refused(tmp_path, monkeypatch):
    fit(tmp_path)
    before = files_of(tmp_path)
    other = X.clone()
    other[-1, 0] += 1
    options = {"batch_size": 32, "progress": False, "out": tmp_path, "resume": True, "epochs": 3}
    cases = {
        "data sha256": (kinds.make("functions", 0), other),
        "data rows 96 (now 95)": (kinds.make("functions", 0), X[:95]),
        "source model": (kinds.make("modules", 0), X),
    }
    for message, (pair, data) in cases.items():
        with pytest.raises(ValueError, match=re.escape(message)) as error:
            pvae.fit(*pair, data, **options)
        assert "go on all the same (--allow-changed, allow_changed=True)" in str(error.value)
    monkeypatch.setattr(np, "__version__", "0.1")
    with pytest.raises(ValueError, match=r"versions numpy '.*' \(now '0.1'\)"):
        fit(tmp_path, resume=True)
    assert files_of(tmp_path) == before


def test_resume_with_other_sites_is_refused(tmp_path):
    def programs(wide):
        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 1 + wide), 1).to_event(1))
                pyro.sample("x", dist.Normal(z.sum(-1, True).expand_as(x), 1.0).to_event(1), obs=x)

        def guide(x):
            loc = pyro.param("loc", torch.zeros(()))
            with pyro.plate("data", len(x)):
                loc = loc.expand(len(x), 1 + wide)
                pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))

        return model, guide

    options = {"progress": False, "out": tmp_path}
    pvae.fit(*programs(0), X, epochs=1, **options)
    with pytest.raises(ValueError, match=r"sites model z 'Normal.* \(now 'Normal"):
        pvae.fit(*programs(1), X, epochs=2, resume=True, **options)


def test_allowed_changes_stay_in_the_config(tmp_path):
    fit(tmp_path)
    options = {"resume": True, "allow_changed": True}
    resumed = fit(tmp_path, epochs=3, learning_rate=1e-4, **options)
    assert "resumed after epoch 2 with another learning_rate" in resumed.notes
    rates = [row["learning_rate"] for row in resumed.history]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4])
    fit(tmp_path, epochs=4, learning_rate=1e-5, **options)
    fit(tmp_path, epochs=5, learning_rate=1e-5, resume=True)
    changes = Run(tmp_path).config()["changes"]
    assert changes == [
        {"after_epoch": 2, "changed": {"learning_rate": [None, 1e-4]}},
        {"after_epoch": 3, "changed": {"learning_rate": [1e-4, 1e-5]}},
    ]
