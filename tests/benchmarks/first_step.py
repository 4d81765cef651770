"""Seconds from the call of `fit` to the first captured step: the first start of a pair, and others.

    python tests/benchmarks/first_step.py --json first_step.json

Each start is a fresh process; a first one has an empty cache of compiled steps, and a second one
that of the first. "import torch._dynamo" is what `torch.optim` imports with the first optimizer of
any program, and is part of each start.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from pvae.cli.bench import machine, spread

START = """
import json, time
import torch
import pvae
from pvae.engine.recording import Recording

def first(self, tensors, call=Recording.__call__):
    found = call(self, tensors)
    if self.how == "compiled":
        times.append(time.perf_counter() - began)
    return found

times = []
x = torch.rand(128, 784).round()
model = pvae.models.VAE(x_shape=(784,), z_dim=20, hidden=400)
guide = pvae.guides.MeanField(x_shape=(784,), z_dim=20, hidden=400)
Recording.__call__ = first
began = time.perf_counter()
pvae.fit(model, guide, x, epochs=3, batch_size=128, engine="captured", progress=False)
print(json.dumps(times[0]))
"""
DYNAMO = """
import json, time
import torch, pyro
began = time.perf_counter()
import torch._dynamo
print(json.dumps(time.perf_counter() - began))
"""


def seconds(script: str, cache: str) -> float:
    # Inductor's own cache is empty, too, so that a first start compiles.
    environment = {
        **os.environ,
        "PVAE_CACHE": cache,
        "TORCHINDUCTOR_CACHE_DIR": f"{cache}/inductor",
    }
    command = [sys.executable, "-c", script]
    return float(json.loads(subprocess.check_output(command, text=True, env=environment)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    times: dict[str, list[float]] = {"first": [], "second": [], "import torch._dynamo": []}
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as cache:
            times["first"].append(seconds(START, cache))
            times["second"].append(seconds(START, cache))
            times["import torch._dynamo"].append(seconds(DYNAMO, cache))
    found = {
        "command": "python tests/benchmarks/first_step.py --json first_step.json",
        "machine": machine(torch.device("cpu")),
        "seconds": {name: spread(values) for name, values in times.items()},
    }
    print(json.dumps(found["seconds"], indent=2))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
