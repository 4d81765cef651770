"""Seconds of a whole training on MNIST, imports included, by pvae and by NumPyro.

    python tests/benchmarks/whole_fits.py --numpyro path/to/python/with/numpyro --json out.json

20 epochs of 784-400-20 in batches of 128, binarized in each epoch, with the bound of the 10,000
test images after each; every training is a fresh process. Rounds alternate, alone on the machine
and beside one busy process. Caches of compiled code are warm but for the first round, which is
reported by itself. The images are read from `$PVAE_DATA`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

import pvae
from pvae.cli.bench import machine

OURS = """
import sys
import pvae
import torch
from pvae.engine.threads import fastest_number_of_threads

if sys.argv[3] == "auto":
    torch.set_num_threads(fastest_number_of_threads())
data = pvae.data.load("mnist", binarize="dynamic")
model = pvae.models.VAE(x_shape=(28, 28), z_dim=20, hidden=400)
guide = pvae.guides.MeanField(x_shape=(28, 28), z_dim=20, hidden=400)
fit = pvae.fit(
    model, guide, data.train, valid=data.test, epochs=int(sys.argv[1]), batch_size=128,
    engine=sys.argv[2], progress=False,
)
row = fit.history[-1]
print(f"{row['valid_elbo']:.2f} nats per datum after {row['epoch']} epochs; {fit.engine}; "
      f"{torch.get_num_threads()} threads")
"""


@contextmanager
def busy(wanted: bool) -> Iterator[None]:
    """One other process that computes all the time."""
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if wanted else None
    try:
        yield
    finally:
        if other is not None:
            other.kill()


def seconds(command: list[str], environment: dict[str, str]) -> float:
    began = time.perf_counter()
    said = subprocess.check_output(command, text=True, env={**os.environ, **environment})
    spent = time.perf_counter() - began
    print(f"{spent:8.2f} s  {said.strip()}", flush=True)
    return spent


def row(found: dict[str, Any], way: str) -> str:
    """A row of the page's table: seconds cold, and medians with their ratios to NumPyro's."""
    cells = [f"{found['cold'][way]:.0f}"]
    for ways in found["seconds"].values():
        ratios = [a / b for a, b in zip(ways[way], ways["NumPyro"], strict=True)]
        cells += [f"{statistics.median(ways[way]):.0f}", f"{statistics.median(ratios):.2f}"]
    return "| " + " | ".join([way, *cells]) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--numpyro", help="a Python that has numpyro")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder, "mnist.npz")
        splits = pvae.data.load("mnist")
        parts = {"train": splits.train, "valid": splits.test}
        grey = {name: rows.first(len(rows))[0] for name, rows in parts.items()}
        np.savez(images, **{name: (x * 255).round().byte().numpy() for name, x in grey.items()})
        environment = {
            "PVAE_CACHE": folder,
            "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor",
            "JAX_COMPILATION_CACHE_DIR": f"{folder}/jax",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        epochs = str(options.epochs)
        ways = {
            "pvae": [sys.executable, "-c", OURS, epochs, "auto", ""],
            "pvae, captured": [sys.executable, "-c", OURS, epochs, "captured", ""],
            "pvae, captured, --threads auto": [
                sys.executable, "-c", OURS, epochs, "captured", "auto",
            ],
        }  # fmt: skip
        if options.numpyro:
            script = Path(__file__).with_name("numpyro_fit.py")
            ways["NumPyro"] = [options.numpyro, str(script), str(images), epochs]
        times: dict[str, dict[str, list[float]]] = {}
        for number in range(options.rounds + 1):
            for beside in (False, True) if number else (False,):
                where = "cold" if not number else "beside a busy process" if beside else "alone"
                for name, command in ways.items():
                    with busy(beside):
                        spent = seconds(command, environment)
                    times.setdefault(where, {}).setdefault(name, []).append(spent)
    found: dict[str, object] = {
        "command": "python tests/benchmarks/whole_fits.py --numpyro PYTHON --json out.json",
        "machine": machine(torch.device("cpu")),
        "epochs": options.epochs,
        "cold": {name: values[0] for name, values in times.pop("cold").items()},
        "seconds": times,
    }
    print(json.dumps(found, indent=2))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
