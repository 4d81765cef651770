"""Processor time of importing pvae and of its command line, beside importing Pyro.

    python tests/benchmarks/startup.py --json startup.json

Interleaved rounds of fresh processes; the ratios are medians over rounds.
"""

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path

import torch

from pvae.cli.bench import machine, spread

COMMANDS = {
    "import pyro": [sys.executable, "-c", "import pyro"],
    "import pvae": [sys.executable, "-c", "import pvae"],
    "pvae --help": [sys.executable, "-m", "pvae", "--help"],
}


def processor_seconds(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for number in range(options.rounds + 1):
        for name, command in COMMANDS.items():
            seconds = processor_seconds(command)
            if number:
                times[name].append(seconds)
    results = {
        "command": "python tests/benchmarks/startup.py --json startup.json",
        "machine": machine(torch.device("cpu")),
        "processor seconds": {name: spread(values) for name, values in times.items()},
    }
    for name, base in (("import pvae", "import pyro"), ("pvae --help", "import pvae")):
        ratios = [a / b for a, b in zip(times[name], times[base], strict=True)]
        results[f"{name} / {base}"] = spread(ratios)
        print(f"{name} / {base}", json.dumps(spread(ratios)))
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
