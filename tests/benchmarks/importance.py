"""The cost of importance sampling, relative to the matrix products that it requires.

    python tests/benchmarks/importance.py --rows 10000 --particles 5000 --json importance.json

The pair is a 784-400-20 VAE. The reference is the decoder's products for every
particle and the encoder's for every datum, in blocks of the same size, by the same library.
Estimate and reference are timed in alternation.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

import pvae
from pvae.cli.bench import machine

X, HIDDEN, Z = 784, 400, 20
BLOCK = 2048  # rows per product


def products(rows: int, particles: int) -> Callable[[], None]:
    """Compute only the matrix products."""
    up = torch.randn(X, HIDDEN), torch.randn(HIDDEN, 2 * Z)
    down = torch.randn(Z, HIDDEN), torch.randn(HIDDEN, X)
    z, x = torch.randn(BLOCK, Z), torch.randn(rows, X)

    def compute() -> None:
        x @ up[0] @ up[1]
        for _ in range(rows * particles // BLOCK):
            z @ down[0] @ down[1]

    return compute


def seconds(compute: Callable[[], object]) -> float:
    began = time.perf_counter()
    compute()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--particles", type=int, default=5000)
    parser.add_argument("--turns", type=int, default=5, help="parts that the rows are cut into")
    parser.add_argument("--budget", type=int, help="bytes held at once")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    model = pvae.models.VAE(x_shape=(X,), z_dim=Z, hidden=HIDDEN)
    guide = pvae.guides.MeanField(x_shape=(X,), z_dim=Z, hidden=HIDDEN)
    data = torch.rand(options.rows, X).bernoulli()
    times: dict[str, list[float]] = {"estimate": [], "products": []}
    for part in data.chunk(options.turns):
        alone = products(len(part), options.particles)
        times["products"].append(seconds(alone))
        times["estimate"].append(
            seconds(
                lambda part=part: pvae.log_likelihood(
                    model, guide, part, options.particles, max_bytes=options.budget
                )
            )
        )
    ratios = [a / b for a, b in zip(times["estimate"], times["products"], strict=True)]
    found = {
        "machine": machine(torch.device("cpu")),
        "command": f"python tests/benchmarks/importance.py --rows {options.rows} "
        f"--particles {options.particles}",
        "seconds": {name: sum(values) for name, values in times.items()},
        "ratio": {"median": statistics.median(ratios), "all": ratios},
    }
    print(json.dumps(found, indent=2))
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
