"""Trainings that are killed at random moments, and go on until they are done."""

import json
import os
import random
import subprocess
import sys
import time

import pytest

from pvae.training.run import Run

KILLS = int(os.environ.get("PVAE_KILLS", "30"))
OPTIONS = "--data digits --set hidden=16 --set z_dim=2 --epochs 40 --particles 2 --no-progress"
OFTEN = "--save-steps 3"  # of the 12 steps of an epoch

STREAM = """
import sys
import torch
from torch.utils.data import IterableDataset
import pvae

class Stream(IterableDataset):
    given = 0

    def __iter__(self):
        while True:
            self.given += 1
            draws = torch.rand(8, generator=torch.Generator().manual_seed(self.given))
            yield draws.round()

class Stateful(Stream):
    def state_dict(self):
        return {"given": self.given}

    def load_state_dict(self, state):
        self.given = state["given"]

out, kind = sys.argv[1:]
torch.manual_seed(0)
sizes = {"x_shape": (8,), "z_dim": 2, "hidden": 16}
pair = pvae.models.VAE(**sizes), pvae.guides.MeanField(**sizes)
data = Stateful() if kind == "stream with a state" else Stream()
from pvae.training.run import Run
pvae.fit(
    *pair, data, epochs=40, batch_size=32, steps_per_epoch=12, save_steps=3, progress=False,
    out=out, resume=Run(out).exists, engine="recorded",
)
"""


def command(out, engine):
    if engine.startswith("stream"):
        script = out.parent / "stream.py"
        script.write_text(STREAM)
        return [sys.executable, str(script), str(out), engine]
    options = [*OPTIONS.split(), *OFTEN.split(), "--engine", engine, "--resume", "auto"]
    return [sys.executable, "-m", "pvae", "train", *options, "--out", str(out)]


def losses(run):
    return [(row["epoch"], row["train_loss"]) for row in Run(run).history()]


def written(run):
    """When the checkpoint was written, or None."""
    path = run / "checkpoint.pt"
    return path.stat().st_mtime_ns if path.exists() else None


@pytest.mark.slow
@pytest.mark.parametrize(
    "engine", ["eager", "recorded", "captured", "stream", "stream with a state"]
)
def test_killed_trainings_lose_nothing(tmp_path, engine):
    """`pytest -s` prints how many kills there were, and how many left a mid-epoch checkpoint."""
    for name in ("first", "whole"):  # the second one finds compiled steps on disk, as all others do
        subprocess.run(command(tmp_path / name, engine), check=True, capture_output=True)
    assert losses(tmp_path / "first") == losses(tmp_path / "whole")
    summary = json.loads((tmp_path / "whole" / "summary.json").read_text())
    generator, run, kills, within, done = random.Random(0), tmp_path / "run", 0, 0, 0
    while kills < KILLS:
        process = subprocess.Popen(command(run, engine), stdout=subprocess.DEVNULL)
        while process.poll() is None and not (run / "config.json").exists():
            time.sleep(0.02)
        latest = 4.0 + 2 * summary["seconds"]  # imports take seconds, an epoch hundredths of one
        if kills % 2:  # while it trains
            latest, before = summary["seconds"], written(run)
            while process.poll() is None and written(run) == before:
                time.sleep(0.005)
        try:
            process.wait(generator.uniform(0.0, latest))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
            within += Run(run).started and bool(Run(run).restore()["partial"])
            continue
        assert process.returncode == 0
        assert losses(run) == losses(tmp_path / "whole")
        done += 1
        run = tmp_path / f"run-{done}"  # it was done before the kill: start another
    subprocess.run(command(run, engine), check=True, capture_output=True)
    assert losses(run) == losses(tmp_path / "whole")
    print(f"{engine}: {kills} kills, {within} of them left a checkpoint in mid-epoch")
