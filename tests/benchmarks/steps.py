"""What a training step costs: Pyro, pvae's engines, hand-written PyTorch, NumPyro.

    python tests/benchmarks/steps.py --json steps.json --numpyro path/to/python/with/numpyro

All but NumPyro run in one process, interleaved: a round times a few steps of each, and ratios are
taken round by round. NumPyro has a process of its own, since its threads and torch's would share
cores; there its times are medians to compare with medians.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyro
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, silu, softplus

import pvae

SIZES = [(64, 2, 64), (128, 10, 100), (128, 20, 400), (128, 30, 2000)]  # batch, z_dim, hidden
X = 784
Stepper = Callable[[], object]


def fused_adam(parameters):
    return torch.optim.Adam(parameters, lr=1e-3, fused=True)


class HandWritten(nn.Module):
    """The zoo's VAE and mean-field guide without Pyro; the loss is minus the bound, per datum."""

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


def by_hand(x: Tensor, z_dim: int, hidden: int, *, compiled: bool) -> Stepper:
    network = HandWritten(z_dim, hidden)
    loss = torch.compile(network) if compiled else network
    optimizer = fused_adam(network.parameters())

    def step() -> None:
        optimizer.zero_grad()
        loss(x).backward()
        optimizer.step()

    return step


def by_pyro(x: Tensor, z_dim: int, hidden: int, engine: str, *, validate: bool = False) -> Stepper:
    """Pyro's SVI as users run it, or one of pvae's engines as `fit` runs it."""
    model = pvae.models.VAE(x_shape=(X,), z_dim=z_dim, hidden=hidden)
    guide = pvae.guides.MeanField(x_shape=(X,), z_dim=z_dim, hidden=hidden)
    scope = pyro.get_param_store().scope
    with scope() as state:
        if engine == "pyro":
            svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
        else:
            svi = pvae.SVI(model, guide, fused_adam, Trace_ELBO(), engine)

    def step() -> None:
        if engine == "pyro":
            svi.step(x)
        else:
            svi.step_tensor((x,), divisor=len(x))

    def timed() -> None:
        with pyro.validation_enabled(validate):
            step()

    timed.state = state  # type: ignore[attr-defined]
    return timed


def contenders(x: Tensor, z_dim: int, hidden: int) -> dict[str, Stepper]:
    return {
        "Pyro, as users run it": by_pyro(x, z_dim, hidden, "pyro", validate=True),
        "Pyro, no validation": by_pyro(x, z_dim, hidden, "pyro"),
        "pvae eager": by_pyro(x, z_dim, hidden, "eager"),
        "pvae recorded": by_pyro(x, z_dim, hidden, "recorded"),
        "pvae captured": by_pyro(x, z_dim, hidden, "captured"),
        "by hand": by_hand(x, z_dim, hidden, compiled=False),
        "by hand, compiled": by_hand(x, z_dim, hidden, compiled=True),
    }


def interleaved(steppers: dict[str, Stepper], rounds: int, repeats: int) -> dict[str, list[float]]:
    """Milliseconds a step, round by round."""
    times: dict[str, list[float]] = {name: [] for name in steppers}
    scopes = {name: getattr(step, "state", None) for name, step in steppers.items()}
    store = pyro.get_param_store()
    for round_ in range(-3, rounds):
        for name, step in steppers.items():
            with store.scope(scopes[name]):
                began = time.perf_counter()
                for _ in range(repeats):
                    step()
                elapsed = (time.perf_counter() - began) / repeats * 1e3
            if round_ >= 0:
                times[name].append(elapsed)
    return times


def floor(batch: int, z_dim: int, hidden: int) -> float:
    """Milliseconds for the products at this machine's rate, and Adam's 28 bytes a parameter."""
    a, b = torch.rand(2048, 2048), torch.rand(2048, 2048)
    rate = 2 * 2048**3 / best(lambda: a @ b)
    source = torch.rand(8_000_000)
    copy = 2 * source.numel() * 4 / best(lambda: source.clone())
    parameters = 2 * X * hidden + 3 * z_dim * hidden
    # Forward, and backward into weights and inputs; the data need no gradient.
    products = 2 * batch * (3 * parameters - X * hidden)
    return (products / rate + 28 * parameters / copy) * 1e3


def best(work: Callable[[], object]) -> float:
    times = []
    for _ in range(10):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def spread(values: list[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(values, n=4)
    return {"median": middle, "lower quartile": low, "upper quartile": high}


def measure(size: tuple[int, int, int], rounds: int, numpyro: str | None) -> dict[str, object]:
    torch.manual_seed(0)
    batch, z_dim, hidden = size
    x = torch.rand(batch, X).bernoulli()
    times = interleaved(contenders(x, z_dim, hidden), rounds, repeats=3 if hidden > 1000 else 10)
    against = ("by hand, compiled", "Pyro, no validation")
    ratios = {
        f"{name} / {other}": spread([a / b for a, b in zip(times[name], times[other], strict=True)])
        for name in ("pvae captured", "pvae recorded")
        for other in against
    }
    result: dict[str, object] = {
        "size": size,
        "milliseconds": {name: spread(values) for name, values in times.items()},
        "ratios": ratios,
        "floor": floor(*size),
    }
    if numpyro is not None:
        script = Path(__file__).with_name("numpyro_steps.py")
        command = [numpyro, str(script), *map(str, size), str(rounds)]
        result["numpyro"] = json.loads(subprocess.check_output(command, text=True))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--numpyro", help="a Python that has numpyro")
    parser.add_argument("--sizes", type=int, default=len(SIZES), help="how many, smallest first")
    options = parser.parse_args()
    results = [measure(size, options.rounds, options.numpyro) for size in SIZES[: options.sizes]]
    for result in results:
        print(f"\nbatch, z_dim, hidden = {result['size']}; floor {result['floor']:.2f} ms")
        for title in ("milliseconds", "ratios", "numpyro"):
            for name, values in result.get(title, {}).items():  # type: ignore[attr-defined]
                low, high = values["lower quartile"], values["upper quartile"]
                print(f"  {name:<44}{values['median']:7.3f}   ({low:.3f} to {high:.3f})")
    if options.json is not None:
        versions = {"torch": torch.__version__, "pyro": pyro.__version__, "python": sys.version}
        machine = {"threads": torch.get_num_threads(), **versions}
        options.json.write_text(json.dumps({"machine": machine, "results": results}, indent=2))


if __name__ == "__main__":
    main()
