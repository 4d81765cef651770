"""Trainings whose batches are divided among processes, against the same training in one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from pairs import parallel

import pvae
from pvae.engine.all_reduce import ProcessEndedError

SCRIPT = Path(parallel.__file__)
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def torchrun(number, *arguments, **options):
    command = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={number}"]
    return [sys.executable, *command, *map(str, arguments)]


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    command = torchrun(request.param, SCRIPT, folder)
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def results(folder, name):
    paths = sorted(folder.glob(f"{name}-*.pt"))
    assert len(paths) >= 2
    return [torch.load(path, weights_only=False) for path in paths]


@pytest.mark.parametrize("name", parallel.TRAJECTORIES)
def test_trajectory_of_one_process(name, folder):
    make, options = parallel.TRAJECTORIES[name]
    expected = parallel.outcome(parallel.fit(make, **options))
    for found in results(folder, name):
        assert found["stop"] == expected["stop"]
        torch.testing.assert_close(found["params"], expected["params"], rtol=2e-5, atol=2e-6)
        for row, other in zip(found["rows"], expected["rows"], strict=True):
            assert row == pytest.approx(other, rel=1e-4)


@pytest.mark.parametrize("name", parallel.OBJECTIVES)
def test_gradient_is_the_sum_over_shards(name, folder):
    first, *others = results(folder, name)
    for found in (first, *others):
        assert len(found["errors"]) >= 15 * 3
        assert max(found["errors"]) < 1e-5
        assert found["rows"] == first["rows"]
        torch.testing.assert_close(found["params"], first["params"], rtol=0, atol=0)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_that_fails_in_one_process_fails_in_all(accumulate, folder):
    first, *others = results(folder, f"skipped {accumulate}")
    assert first["skipped"] == [1, 1, 1]
    assert all(torch.isfinite(p).all() for p in first["params"].values())
    for found in others:
        assert found["rows"] == first["rows"]
        torch.testing.assert_close(found["params"], first["params"], rtol=0, atol=0)
    assert len(set(results(folder, f"diverged {accumulate}"))) == 1


def test_resumed_exactly(folder):
    for resumed, whole in results(folder, "resumed"):
        assert resumed["rows"] == whole["rows"]
        torch.testing.assert_close(resumed["params"], whole["params"], rtol=0, atol=0)


def test_resumed_by_another_number_of_processes(folder):
    model, guide = parallel.with_global_site(0.3)
    options = {"batch_size": 24, "out": folder / "run", "progress": False, "learning_rate": 0.05}
    found = pvae.fit(model, guide, parallel.data(), resume=True, epochs=6, **options)
    assert [row["epoch"] for row in found.history] == [1, 2, 3, 4, 5, 6]
    (resumed, _), *_ = results(folder, "resumed")
    assert [row["train_loss"] for row in found.history[:4]] == [
        row["train_loss"] for row in resumed["rows"]
    ]


def test_loaders_have_the_same_order_in_all_processes(folder):
    first, *others = results(folder, "loader")
    assert all(found["rows"] == first["rows"] for found in others)
    losses = [row["train_loss"] for row in first["rows"]]
    assert losses == sorted(losses, reverse=True)


OPTIONS = "--data digits --set hidden=16 --set z_dim=2 --particles 2 --no-progress"


@pytest.mark.slow
def test_command_line(tmp_path):
    run = tmp_path / "run"
    options = [*OPTIONS.split(), "--epochs", "2", "--out", str(run)]
    command = torchrun(2, "-m", "pvae", "train", *options)
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("log p(x)") == 1
    assert len(pvae.load(run).history) == 2
    options = ["-m", "pvae", "evaluate", run, "--json", "--num-particles", "500"]
    one, two = (
        json.loads(
            subprocess.run(
                command, env=ENVIRONMENT, capture_output=True, text=True, check=True
            ).stdout
        )
        for command in ([sys.executable, *map(str, options)], torchrun(2, *options))
    )
    for name in ("elbo", "log_likelihood"):
        difference = abs(one[name]["mean"] - two[name]["mean"])
        assert difference < 5 * (one[name]["mc_error"] + two[name]["mc_error"])
        assert two[name]["std_error"] == pytest.approx(one[name]["std_error"], rel=0.05)
        assert two[name]["mc_error"] == pytest.approx(one[name]["mc_error"], rel=0.3)
    assert two["latent_use"].keys() == one["latent_use"].keys()


@pytest.mark.slow
def test_a_process_that_dies_ends_the_others_and_the_run_resumes(tmp_path):
    run = tmp_path / "run"
    options = [*OPTIONS.split(), "--epochs", "2000", "--out", str(run)]
    command = torchrun(2, "-m", "pvae", "train", *options)
    training = subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    while not (run / "metrics.jsonl").exists():
        assert training.poll() is None, training.stderr.read()
        time.sleep(0.1)
    workers = subprocess.run(
        ["pgrep", "-P", str(training.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    os.kill(int(workers[-1]), signal.SIGKILL)
    began = time.monotonic()
    _, said = training.communicate(timeout=60)
    said = said.partition("failed (exit")[0]
    assert "Traceback" not in said
    assert "Error: process 0 of 2 cannot go on: another one ended" in said
    assert time.monotonic() - began < 30
    assert training.returncode != 0
    resumed = [*torchrun(2, "-m", "pvae", "train", "--resume", "--epochs"), "3", "--out", str(run)]
    before = len(pvae.load(run).history)
    resumed[resumed.index("3")] = str(before + 2)
    done = subprocess.run(resumed, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(pvae.load(run).history) == before + 2


def test_torchruns_signal_does_not_hide_that_another_process_ended(monkeypatch):
    from pvae.cli.invocation import interrupted_by_sigterm
    from pvae.training.processes import process_group

    monkeypatch.setenv("WORLD_SIZE", "2")
    dist = torch.distributed
    monkeypatch.setattr(dist, "init_process_group", lambda *_, **__: None)
    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: signal.raise_signal(signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)

    def end():
        with process_group(), interrupted_by_sigterm():
            try:
                raise ProcessEndedError("another one ended")
            finally:
                signal.raise_signal(signal.SIGTERM)

    try:
        with pytest.raises(ProcessEndedError, match="another"):
            end()
    finally:
        signal.signal(signal.SIGTERM, before)


def test_refusals(monkeypatch):
    from pvae.training.processes import Processes

    monkeypatch.setattr(Processes, "several", property(lambda self: True))
    monkeypatch.setattr(Processes, "size", 4, raising=False)
    from pyro.infer.renyi_elbo import RenyiELBO

    model, guide = parallel.local_only()
    options = {"progress": False, "batch_size": 24}
    with pytest.raises(ValueError, match="RenyiELBO of Pyro is no sum over the rows of a batch"):
        pvae.fit(model, guide, parallel.data(), objective=RenyiELBO(num_particles=2), **options)
