"""How the time of a step grows with processes, batch and model.

    python tests/benchmarks/processes.py

writes `results/processes_cpu.json` beside this file. Each training runs in 1, 2 and 4 processes of
one thread on this machine, in turn; times are medians over its epochs. "reduced" is the time in
which the gradients of all processes are added, including that until the slowest of them is there.
"""

import gc
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from entries import run

import pvae
from pvae.engine import all_reduce

SIZES = ((100, 128), (100, 1024), (1000, 128), (1000, 1024), (3000, 128))  # hidden, batch
PROCESSES = (1, 2, 4)
STEPS, EPOCHS = 10, 6


def train(hidden: int, batch: int) -> dict[str, float]:
    """Train a VAE; milliseconds of a step, and those of its reduction."""
    reduced, reduce = [], all_reduce.AllReduce._combine

    def timed(self: all_reduce.AllReduce, done: object) -> object:
        began = time.perf_counter()
        found = reduce(self, done)  # type: ignore[arg-type]
        reduced.append(time.perf_counter() - began)
        return found

    all_reduce.AllReduce._combine = timed  # type: ignore[assignment, method-assign]
    torch.manual_seed(0)
    model = pvae.models.VAE(x_shape=(784,), z_dim=20, hidden=hidden)
    guide = pvae.guides.MeanField(x_shape=(784,), z_dim=20, hidden=hidden)
    fit = pvae.fit(
        model, guide, torch.rand(STEPS * batch, 784).round(), batch_size=batch, epochs=EPOCHS,
        engine="recorded", progress=False,
    )  # fmt: skip
    seconds = [row["seconds"] / STEPS for row in fit.history[1:]]
    parameters = sum(p.numel() for p in fit.model.pair.parameters().values())
    return {
        "step": 1e3 * statistics.median(seconds),
        "reduced": 1e3 * statistics.median(reduced[STEPS:]) if reduced else 0.0,
        "parameters": parameters,
    }


def entry(hidden: int, batch: int) -> dict[str, object]:
    """The times with each number of processes."""
    found: dict[str, object] = {"hidden": hidden, "batch": batch}
    for number in PROCESSES:
        with tempfile.TemporaryDirectory() as folder:
            command = [
                sys.executable, "-m", "torch.distributed.run", "--standalone",
                f"--nproc-per-node={number}", __file__, "--worker", str(hidden), str(batch), folder,
            ]  # fmt: skip
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            subprocess.run(command, check=True, env=environment, capture_output=True)
            times = torch.load(Path(folder, "times.pt"))
        found["parameters"] = times.pop("parameters")
        found[f"{number} processes"] = times
    return found


def row(found: dict) -> str:
    """A row of the table."""
    cells = [f"{found['parameters'] / 1e6:.1f}", str(found["batch"])]
    for number in PROCESSES:
        times = found[f"{number} processes"]
        reduced = f" ({times['reduced']:.1f})" if number > 1 else ""
        cells.append(f"{times['step']:.1f}{reduced}")
    return f"| {' | '.join(cells)} |"


ENTRIES = {
    f"{hidden}-{batch}": lambda seed, hidden=hidden, batch=batch: entry(hidden, batch)
    for hidden, batch in SIZES
}

if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        torch.distributed.init_process_group("gloo")
        times = train(int(sys.argv[2]), int(sys.argv[3]))
        if torch.distributed.get_rank() == 0:
            torch.save(times, Path(sys.argv[4], "times.pt"))
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
        gc.collect()
    else:
        run("processes", ENTRIES)
