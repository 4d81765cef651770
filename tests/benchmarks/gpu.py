"""All measurements on a GPU: epochs, deep pairs, NumPyro, kernels, evaluation, and MNIST.

    python tests/benchmarks/gpu.py --numpyro path/to/python/with/numpyro --json gpu.json

It ends within six minutes. Times are of steps on rows that lie on the device: 60,000 of 784 grey
levels, binarized in each batch of 128, for a VAE of 784-400-20. `--parts` chooses some of them;
MNIST is trained if $PVAE_DATA has it.
"""

import argparse
import importlib.util
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyro
import torch
from pyro.infer import Trace_ELBO
from torch.nn.functional import silu

import pvae
from pvae.cli.bench import machine, spread
from pvae.data import Rows

HERE = Path(__file__).parent
ROWS, BATCH, X, Z, HIDDEN = 60_000, 128, 784, 20, 400


def neighbour(name: str) -> object:
    """A script of this folder as a module."""
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def grey_rows() -> Rows:
    torch.manual_seed(0)
    return Rows((torch.rand(ROWS, X) * 255).to(torch.uint8).cuda(), binarize="dynamic")


def vae() -> tuple[object, object]:
    torch.manual_seed(0)
    sizes = {"x_shape": (X,), "z_dim": Z, "hidden": HIDDEN}
    return pvae.models.VAE(**sizes).cuda(), pvae.guides.MeanField(**sizes).cuda()


def adam(parameters: object) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=1e-3, fused=True)


def milliseconds(work: Callable[[], object], times: int, warm: int = 1) -> dict[str, float]:
    found = []
    for number in range(warm + times):
        torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        torch.cuda.synchronize()
        if number >= warm:
            found.append((time.perf_counter() - began) * 1e3)
    return {**spread(found), "mean": statistics.mean(found)}


def said(title: str, value: object) -> object:
    if isinstance(value, dict) and "median" in value:
        low, high = value["lower quartile"], value["upper quartile"]
        value = {**value}
        print(f"{title:<56}{value['median']:9.2f}  ({low:.2f} to {high:.2f})", flush=True)
    else:
        print(f"{title:<56}{value}", flush=True)
    return value


def epochs() -> dict[str, object]:
    """An epoch by `fit`, by `SVI.run_steps`, by Pyro and by hand."""
    rows, found = grey_rows(), {}
    index = torch.arange(ROWS // BATCH * BATCH, device="cuda").view(-1, BATCH)
    for precision in ("float32", "tf32"):
        for engine in ("recorded", "captured"):
            pyro.clear_param_store()
            began = time.perf_counter()
            fit = pvae.fit(
                *vae(), rows, epochs=14, device="cuda", engine=engine, precision=precision,
                progress=False,
            )  # fmt: skip
            times = [row["seconds"] * 1e3 for row in fit.history]
            name = f"fit, {engine}, {precision}"
            found[name] = {**spread(times[2:]), "mean": statistics.mean(times[2:]),
                           "first": times[0], "whole": (time.perf_counter() - began) * 1e3,
                           "notes": fit.notes}  # fmt: skip
            said(name, found[name])
            said("  mean, first epoch", (found[name]["mean"], times[0], fit.notes))
    pyro.clear_param_store()
    svi = pvae.SVI(*vae(), adam, Trace_ELBO(), engine="captured")
    found["run_steps, captured, float32"] = milliseconds(
        lambda: svi.run_steps(rows, index, divisor=BATCH), 9
    )
    said("run_steps, captured, float32", found["run_steps, captured, float32"])
    pyro.clear_param_store()
    of_pyro = pyro.infer.SVI(*vae(), pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
    part = index[::4]

    def pyro_steps() -> None:
        with pyro.validation_enabled(False):
            for numbers in part:
                of_pyro.step(*rows.arguments(numbers))

    quarter = milliseconds(pyro_steps, 3)
    found["Pyro, no validation"] = {k: v * len(index) / len(part) for k, v in quarter.items()}
    said("Pyro, no validation", found["Pyro, no validation"])
    by_hand = neighbour("steps").HandWritten(Z, HIDDEN).cuda()
    optimizer = torch.optim.Adam(by_hand.parameters(), lr=1e-3, fused=True)
    compiled = torch.compile(by_hand)

    def hand_steps() -> None:
        for numbers in index:
            optimizer.zero_grad()
            compiled(rows.arguments(numbers)[0]).backward()
            optimizer.step()

    found["by hand, compiled"] = milliseconds(hand_steps, 3)
    said("by hand, compiled", found["by hand, compiled"])
    return found


def kernels() -> list[dict[str, object]]:
    """The kernels of one step of 16 that one launch executes, with TF32."""
    from torch.profiler import ProfilerActivity, profile

    rows = grey_rows()
    index = torch.arange(18 * BATCH, device="cuda").view(18, BATCH)
    pyro.clear_param_store()
    svi = pvae.SVI(*vae(), adam, Trace_ELBO(), engine="captured", precision="tf32")
    generator = torch.Generator("cuda").manual_seed(0)
    svi.run_steps(rows, index, divisor=BATCH, generator=generator)
    launch = svi._many[BATCH]._launches[16, False].launch
    launch()
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        launch()
        torch.cuda.synchronize()
    events = [event for event in seen.events() if event.device_type.name == "CUDA"]
    events.sort(key=lambda event: event.time_range.start)
    updates = [e.time_range.end for e in events if "FusedOptimizer" in e.name or "Fused" in e.name]
    gaps = [b for a, b in itertools.pairwise(updates) if b - a > 20]
    begin, end = (gaps[-3], gaps[-2]) if len(gaps) > 2 else (0, float("inf"))
    found = []
    for event in events:
        start, stop = event.time_range.start, event.time_range.end
        if begin <= stop <= end + 12:
            found.append({"start": start - begin, "us": stop - start, "kernel": event.name[:90]})
            print(f"{start - begin:9.1f}{stop - start:7.1f}  {event.name[:90]}", flush=True)
    return found


def deep(number: int) -> dict[str, object]:
    """A deep pair: a step by Pyro, and by launches of recorded and compiled steps."""
    title, (pair, x) = list(neighbour("deep_pairs").deep_pairs().items())[number]
    pair.cuda()
    rows, batch = Rows(x.repeat(8, *[1] * (x.dim() - 1)).cuda()), len(x)
    index = torch.arange(len(rows), device="cuda").view(-1, batch).repeat(8, 1)
    of_pyro = pyro.infer.SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())

    def pyro_steps() -> None:
        with pyro.validation_enabled(False):
            for numbers in index[:8]:
                of_pyro.step(*rows.arguments(numbers))

    pyro.clear_param_store()
    found: dict[str, object] = {"title": title}
    found["Pyro"] = {k: v / 8 for k, v in milliseconds(pyro_steps, 5).items()}
    said(f"{title}, Pyro, a step", found["Pyro"])
    for engine in ("recorded", "captured"):
        pyro.clear_param_store()
        svi = pvae.SVI(pair.model, pair.guide, adam, Trace_ELBO(), engine=engine)
        began = time.perf_counter()
        svi.run_steps(rows, index, divisor=batch)
        first = time.perf_counter() - began
        times = milliseconds(lambda: svi.run_steps(rows, index, divisor=batch), 7)  # noqa: B023
        own = {k: v / len(index) for k, v in times.items()}
        said(f"{title}, {engine}, a step", own)
        ratio = found["Pyro"]["median"] / own["median"]
        found[engine] = {**own, "times Pyro's speed": ratio, "first": first, "notes": svi.notes}
        said("  times Pyro's speed, seconds before, notes", (ratio, first, svi.notes))
    return found


def numpyro(python: str) -> dict[str, object]:
    found = {}
    for precision in ("default", "float32"):
        command = [python, str(HERE / "numpyro_epoch.py"),
                   *map(str, (ROWS, BATCH, Z, HIDDEN, 20)), precision]  # fmt: skip
        found[precision] = json.loads(subprocess.check_output(command, text=True))
        said(f"NumPyro, an epoch in one scan, {precision}", found[precision])
    return found


def importance() -> dict[str, object]:
    """Importance sampling of 10,000 data with 5,000 particles, and its products alone."""
    model, guide = vae()
    x = torch.rand(10_000, X, device="cuda").bernoulli()
    found: dict[str, object] = {}
    found["seconds"] = milliseconds(lambda: pvae.log_likelihood(model, guide, x, 5000), 2)
    down = torch.randn(Z, HIDDEN, device="cuda"), torch.randn(HIDDEN, X, device="cuda")
    z = torch.randn(100_000, Z, device="cuda")

    def products() -> None:
        for _ in range(500):
            silu(z @ down[0]) @ down[1]

    found["products"] = milliseconds(products, 2)
    said("importance sampling, 10,000 x 5,000", found["seconds"])
    said("  its products alone", found["products"])
    return found


def mnist() -> dict[str, object]:
    """A VAE on MNIST: minutes, bound and likelihood of the test data."""
    try:
        data = pvae.data.load("mnist", binarize="dynamic")
    except pvae.data.DownloadError as error:
        return {"left out": str(error)}
    pyro.clear_param_store()
    sizes = {"z_dim": Z, "hidden": HIDDEN}
    pair = pvae.models.VAE(**sizes), pvae.guides.MeanField(**sizes)
    began = time.perf_counter()
    fit = pvae.fit(
        *pair, data, epochs=200, device="cuda", engine="captured", precision="tf32", progress=False
    )
    found: dict[str, object] = {"seconds": time.perf_counter() - began}
    found["seconds in steps"] = sum(row["seconds"] for row in fit.history)
    test = data.test.to("cuda")
    bound = pvae.elbo(fit.model, fit.guide, test, 10)
    began = time.perf_counter()
    likelihood = pvae.log_likelihood(fit.model, fit.guide, test, 5000)
    found["seconds for the likelihood"] = time.perf_counter() - began
    for name, estimate in (("bound", bound), ("log p", likelihood)):
        found[name] = {"mean": estimate.mean, "mc_error": estimate.mc_error}
    found["notes"] = fit.notes
    for name, value in found.items():
        said(f"MNIST, 200 epochs: {name}", value)
    return found


def parity() -> dict[str, object]:
    """The tests of the marker `cuda`."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "cuda", "--show-capture=no",
               "-p", "no:cacheprovider", str(HERE.parent)]  # fmt: skip
    if importlib.util.find_spec("xdist") is not None:
        command += ["-n", "8"]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    reasons = [line for line in done.stdout.splitlines() if line.startswith("E  ")]
    for line in [*failed, *reasons[:40]]:
        print(line[:300], flush=True)
    last = done.stdout.strip().splitlines()[-1:]
    said(f"parity, {time.perf_counter() - began:.0f} s", last)
    return {"summary": last, "failed": failed}


def main() -> None:
    parts = {
        "parity": parity, "epochs": epochs, "numpyro": numpyro, "kernels": kernels,
        "importance": importance, "mnist": mnist, "hierarchy": partial(deep, 0),
        "markov": partial(deep, 1),
    }  # fmt: skip
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--numpyro", default=sys.executable, help="a Python that has numpyro")
    parser.add_argument("--parts", nargs="+", choices=list(parts), default=list(parts))
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device")
    found: dict[str, object] = {
        "machine": machine(torch.device("cuda")),
        "command": "python tests/benchmarks/gpu.py " + " ".join(options.parts),
    }
    print(found["machine"])
    for name in options.parts:
        began = time.perf_counter()
        try:
            found[name] = parts[name](options.numpyro) if name == "numpyro" else parts[name]()
        except Exception as error:  # noqa: BLE001 (the others are still measured)
            found[name] = {"error": f"{type(error).__name__}: {error}"[:2000]}
            said(name, found[name])
        print(f"-- {name}: {time.perf_counter() - began:.0f} s", flush=True)
        if options.json is not None:
            options.json.write_text(json.dumps(found, indent=2, default=str) + "\n")


if __name__ == "__main__":
    main()
