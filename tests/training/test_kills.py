"""Trainings that are killed at random moments, and go on until they are done."""

import json
import random
import subprocess
import sys
import time

import pytest

import pvae

KILLS = 30
OPTIONS = "--data digits --set hidden=16 --set z_dim=2 --epochs 40 --particles 2 --no-progress"


def command(out, engine):
    options = [*OPTIONS.split(), "--engine", engine, "--resume", "auto", "--out", str(out)]
    return [sys.executable, "-m", "pvae", "train", *options]


def losses(run):
    return [(row["epoch"], row["train_loss"]) for row in pvae.load(run).history]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["eager", "recorded", "captured"])
def test_killed_trainings_lose_nothing(tmp_path, engine):
    subprocess.run(command(tmp_path / "whole", engine), check=True, capture_output=True)
    summary = json.loads((tmp_path / "whole" / "summary.json").read_text())
    generator, run, kills = random.Random(0), tmp_path / "run", 0
    while kills < KILLS:
        process = subprocess.Popen(command(run, engine), stdout=subprocess.DEVNULL)
        while process.poll() is None and not (run / "config.json").exists():
            time.sleep(0.02)
        try:
            # Imports take seconds, an epoch some hundredths of one.
            process.wait(generator.uniform(0.0, 4.0 + 2 * summary["seconds"]))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
            continue
        assert process.returncode == 0
        assert losses(run) == losses(tmp_path / "whole")
        run = tmp_path / f"run-{kills}"  # it was done before the kill: start another
    subprocess.run(command(run, engine), check=True, capture_output=True)
    assert losses(run) == losses(tmp_path / "whole")
