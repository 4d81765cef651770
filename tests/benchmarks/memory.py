"""What grows with the number of rows: peak memory, and the trained numbers.

    python tests/benchmarks/memory.py

writes `results/memory_cpu.json` beside this file. The same VAE is trained for one epoch on files of
1,000 to 10,000,000 rows of 16 bytes, in a process of its own for each.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from entries import run

import pvae

ROWS, BATCH = tuple(10**k for k in range(3, 8)), 1000


def train(path: str) -> dict[str, float]:
    """Train on a file; MiB at the most, numbers that were trained, seconds."""
    torch.set_num_threads(1)
    model = pvae.models.VAE(x_shape=(16,), z_dim=2, hidden=16)
    guide = pvae.guides.MeanField(x_shape=(16,), z_dim=2, hidden=16)
    fit = pvae.fit(
        model, guide, pvae.data.FileRows(path), epochs=1, batch_size=BATCH, progress=False,
        engine="recorded",
    )  # fmt: skip
    status = Path("/proc/self/status").read_text()
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    parameters = sum(p.numel() for p in fit.model.pair.parameters().values())
    (row,) = fit.history
    return {
        "peak_mib": int(peak.split()[1]) / 1024, "parameters": parameters,
        "seconds": row["seconds"], "loading": row["loading"],
    }  # fmt: skip


def entry(rows: int) -> dict[str, object]:
    """Write a file, and train on it in another process."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.npy")
        draws = np.random.default_rng(0)
        array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(rows, 16))
        for start in range(0, rows, 10**6):
            part = array[start : start + 10**6]
            part[:] = draws.integers(0, 2, part.shape)
        del array
        command = [sys.executable, __file__, "--worker", str(path)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    return {"rows": rows, **json.loads(done.stdout.splitlines()[-1])}


def row(found: dict) -> str:
    """A row of the table."""
    return (
        f"| {found['rows']:,} | {found['rows'] * 16 / 2**20:,.2f} | {found['peak_mib']:.0f} | "
        f"{found['parameters']:,} | {found['seconds']:.1f} | {100 * found['loading']:.0f} |"
    )


ENTRIES = {str(rows): lambda seed, rows=rows: entry(rows) for rows in ROWS}

if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        print(json.dumps(train(sys.argv[2])))
    else:
        run("memory", ENTRIES)
