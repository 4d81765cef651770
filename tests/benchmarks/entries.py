"""Results of the benchmarks of the zoo: JSON files, entry by entry, and rows of their tables."""

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from pvae.cli.bench import machine

__all__ = ["run"]

FOLDER = Path(__file__).parent / "results"


def run(name: str, entries: Mapping[str, Callable[[int], dict[str, object]]]) -> None:
    """Train the entries of a benchmark, and write each when it is done.

    Args:
        name: of the script and of its JSON file.
        entries: keyed by name, from a seed to the results.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--only", help="Name of one entry, or the beginning of several.", default=""
    )
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    path = FOLDER / f"{name}_cpu.json"
    known = json.loads(path.read_text())["entries"] if path.exists() else {}
    for entry, train in entries.items():
        if not entry.startswith(asked.only):
            continue
        found = {"seed": asked.seed} | train(asked.seed)
        found["hardware"] = machine(torch.device("cpu"))
        known[entry] = found
        command = f"python tests/benchmarks/{name}.py"
        path.write_text(json.dumps({"command": command, "entries": known}, indent=2) + "\n")
        print(entry, {k: v for k, v in found.items() if k != "hardware"}, flush=True)
