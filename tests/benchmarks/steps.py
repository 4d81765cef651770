"""The cost of a training step: Pyro, pvae's engines, hand-written PyTorch, NumPyro.

    python tests/benchmarks/steps.py --json steps.json --numpyro path/to/python/with/numpyro

All contenders but NumPyro alternate within one process: each runs once per round, and ratios are
taken per round. NumPyro runs in a separate process, since its threads and torch's would share
cores. Compare its median with that of pvae's captured step when timed alone, so that both have the
caches to themselves. `--device cuda` times the steps on a GPU, and an epoch of 60,000 rows.
"""

import argparse
import contextlib
import importlib.util
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, silu, softplus

import pvae
from pvae.cli.bench import PYRO, Contender, Timings, contenders, machine, spread

Spread = dict[str, float]  # a median and its quartiles

SIZES = [(64, 2, 64), (128, 10, 100), (128, 20, 400), (128, 30, 2000)]  # batch, z_dim, hidden
X = 784
HAND = "by hand, compiled"


class HandWritten(nn.Module):
    """The zoo's VAE and mean-field guide without Pyro; the loss is minus the bound per datum."""

    def __init__(self, z_dim: int, hidden: int) -> None:
        super().__init__()
        self.up1, self.up2 = nn.Linear(X, hidden), nn.Linear(hidden, 2 * z_dim)
        self.down1, self.down2 = nn.Linear(z_dim, hidden), nn.Linear(hidden, X)

    def forward(self, x: Tensor) -> Tensor:
        loc, raw = self.up2(silu(self.up1(x))).chunk(2, -1)
        scale = softplus(raw + 0.5413) + 1e-5
        z = loc + scale * torch.randn_like(loc)
        logits = self.down2(silu(self.down1(z)))
        reconstruction = binary_cross_entropy_with_logits(logits, x, reduction="sum")
        divergence = (0.5 * (loc**2 + scale**2 - 1) - scale.log()).sum()
        return (reconstruction + divergence) / len(x)


def by_hand(x: Tensor, z_dim: int, hidden: int, *, compiled: bool) -> Callable[[], object]:
    network = HandWritten(z_dim, hidden).to(x.device)
    loss = torch.compile(network) if compiled else network
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        loss(x).backward()
        optimizer.step()

    return step


def vae(x: Tensor, z_dim: int, hidden: int) -> dict[str, Contender]:
    model = pvae.models.VAE(x_shape=(X,), z_dim=z_dim, hidden=hidden)
    guide = pvae.guides.MeanField(x_shape=(X,), z_dim=z_dim, hidden=hidden)
    ways, _ = contenders(model, guide, (x,))
    ends = torch.cuda.synchronize if x.is_cuda else contextlib.nullcontext
    for name, compiled in (("by hand", False), (HAND, True)):
        ways[name] = Contender(by_hand(x, z_dim, hidden, compiled=compiled), ends=ends)
    return ways


def floor(batch: int, z_dim: int, hidden: int) -> float:
    """Milliseconds for the products at this machine's rate and Adam's 28 bytes per parameter."""
    a, b = torch.rand(2048, 2048), torch.rand(2048, 2048)
    rate = 2 * 2048**3 / best(lambda: a @ b)
    source = torch.rand(8_000_000)
    copy = 2 * source.numel() * 4 / best(lambda: source.clone())
    parameters = 2 * X * hidden + 3 * z_dim * hidden
    # Forward, and backward for weights and inputs; the data need no gradient.
    products = 2 * batch * (3 * parameters - X * hidden)
    return (products / rate + 28 * parameters / copy) * 1e3


def best(work: Callable[[], object]) -> float:
    times = []
    for _ in range(10):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def epoch_of_mnist(engine: str) -> dict[str, float]:
    """Milliseconds for an epoch of 60,000 rows, binarized on the device in each epoch."""
    data = pvae.data.Splits(
        name="noise",
        train=pvae.data.Rows(torch.rand(60_000, 28, 28), binarize="dynamic"),
        valid=None,
        test=None,
    )
    model = pvae.models.VAE(x_shape=(28, 28), z_dim=20, hidden=400)
    guide = pvae.guides.MeanField(x_shape=(28, 28), z_dim=20, hidden=400)
    fit = pvae.fit(model, guide, data, epochs=12, device="cuda", engine=engine, progress=False)
    return spread([row["seconds"] * 1e3 for row in fit.history[2:]])


def described(title: str, timings: Timings, others: list[str]) -> dict[str, object]:
    """Print and return times, and ratios of pvae's engines to the other contenders."""
    ratios = {
        f"{name} / {other}": timings.ratio(name, other)
        for name in timings.rounds
        if name.startswith("pvae")
        for other in others
    }
    result = {"title": title, "milliseconds": timings.as_json(), "ratios": ratios}
    print(f"\n{title}")
    for part in ("milliseconds", "ratios"):
        show(result[part])
    return result


def row(result: dict[str, dict[str, Spread]]) -> str:
    """A row of the page's table: medians in milliseconds, and ratios with their quartiles."""
    times, ratios, alone = result["milliseconds"], result["ratios"], result.get("alone", {})
    names = (PYRO, HAND, "pvae recorded", "pvae captured", "pvae captured, bfloat16")
    cells = [f"{times[name]['median']:.2f}" if name in times else "" for name in names]
    for other in (PYRO, HAND):
        cells.append(quartiles(ratios.get(f"pvae captured / {other}")))
    for name in ("pvae captured, alone", "NumPyro, a loop"):
        cells.append(quartiles(alone.get(name)))
    return "| " + " | ".join([label(str(result["title"])), *cells]) + " |"


def label(title: str) -> str:
    """A title as the table has it: of a VAE only its sizes."""
    return title.partition("= (")[2].rstrip(")") or title


def quartiles(values: Spread | None) -> str:
    """A median with its quartiles."""
    if values is None:
        return ""
    low, high = values["lower quartile"], values["upper quartile"]
    return f"{values['median']:.2f} ({low:.2f} to {high:.2f})"


def show(values: dict[str, dict[str, float]]) -> None:
    for name, value in values.items():
        low, high = value["lower quartile"], value["upper quartile"]
        print(f"  {name:<52}{value['median']:8.3f}   ({low:.3f} to {high:.3f})", flush=True)


def measure(
    size: tuple[int, int, int], rounds: int, numpyro: str | None, device: torch.device
) -> dict[str, object]:
    torch.manual_seed(0)
    x = torch.rand(size[0], X).bernoulli().to(device)
    ways = vae(x, *size[1:])
    timings = Timings.measure(ways, rounds)
    result = described(f"VAE: batch, z_dim, hidden = {size}", timings, [HAND, "by hand", PYRO])
    if device.type == "cpu":
        result["floor"] = floor(*size)
        print(f"  {'floor':<52}{result['floor']:8.3f}")
    if numpyro is not None:
        script = Path(__file__).with_name("numpyro_steps.py")
        command = [numpyro, str(script), *map(str, size), str(rounds)]
        alone = {"pvae captured, alone": ways["pvae captured"]}
        result["alone"] = Timings.measure(alone, rounds).as_json()
        result["alone"] |= json.loads(subprocess.check_output(command, text=True))
        show(result["alone"])
    return result


def deep(rounds: int, device: torch.device) -> list[dict[str, object]]:
    where = Path(__file__).with_name("deep_pairs.py")
    spec = importlib.util.spec_from_file_location("pairs", where)
    pairs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pairs)
    results = []
    for title, (pair, x) in pairs.deep_pairs().items():
        ways, _ = contenders(pair.model, pair.guide, (x.to(device),))
        results.append(described(title, Timings.measure(ways, rounds), [PYRO]))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--numpyro", help="a Python that has numpyro")
    parser.add_argument("--sizes", type=int, default=len(SIZES), help="how many, smallest first")
    parser.add_argument("--no-deep", action="store_true", help="leave out the deeper pairs")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    device = torch.device(options.device)
    command = f"python tests/benchmarks/steps.py --rounds {options.rounds} --device {device}"
    found: dict[str, object] = {"machine": machine(device), "command": command}
    found["results"] = [
        measure(size, options.rounds, options.numpyro, device) for size in SIZES[: options.sizes]
    ]
    if not options.no_deep:
        found["deep"] = deep(options.rounds, device)
    if device.type == "cuda":
        found["epoch of 60,000"] = {e: epoch_of_mnist(e) for e in ("recorded", "captured")}
        show(found["epoch of 60,000"])
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
