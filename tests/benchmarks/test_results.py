"""The tables of the benchmarks' README agree with the results in JSON."""

import importlib.util
import json
import statistics
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAGE = (HERE / "README.md").read_text()


def load(name):
    return json.loads((RESULTS / f"{name}_cpu.json").read_text())


def script(name):
    sys.path.insert(0, str(HERE))  # the scripts import each other as they do on the command line
    try:
        spec = importlib.util.spec_from_file_location(f"{name}_benchmark", HERE / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(HERE))
    return module


def helmholtz(group):
    module, results = script("helmholtz"), load(group)
    assert results["data"] == "binarized-mnist"
    names = {setting.name for setting in module.GROUPS[group]()}
    return results, names, module.row


@pytest.mark.parametrize("group", ["belief_networks", "gaussian_layers", "ladder"])
def test_helmholtz_machines(group):
    results, names, row = helmholtz(group)
    assert set(results["entries"]) == names
    assert results["command"] in PAGE
    for entry in results["entries"].values():
        assert row(entry) in PAGE
        assert {"seed", "epochs", "training_seconds", "hardware", "engine"} <= set(entry)


def test_active_layers_of_the_ladder():
    results, _, _ = helmholtz("ladder")
    layers = results["entries"]["ladder-5"]["kl_by_layer"]
    assert len(layers) == 5
    assert min(layers.values()) >= 0.5


def test_gpu():
    results = json.loads((RESULTS / "gpu_h200.json").read_text())
    assert "H200" in results["machine"]["device"]
    for entry in (*results["epochs"].values(), results["numpyro"]["default"]):
        low, high = entry["lower quartile"], entry["upper quartile"]
        assert f"| {entry['median']:.1f} ({low:.1f} to {high:.1f}) |" in PAGE
        assert not entry.get("notes")
    deep = results["hierarchy"]
    assert f"{deep['captured']['median']:.2f} captured" in PAGE
    ratio = deep["Pyro"]["median"] / deep["captured"]["median"]
    assert f"{ratio:.0f} times Pyro's speed" in PAGE


def test_steps():
    results, row = load("steps"), script("steps").row
    for result in (*results["results"], *results["deep"]):
        assert row(result) in PAGE, row(result)


def test_whole_fits():
    results, row = load("whole_fits"), script("whole_fits").row
    assert results["command"] in PAGE
    for way in results["cold"]:
        assert row(results, way) in PAGE, row(results, way)


def test_importance_sampling():
    results = load("importance")
    assert f"took {results['seconds']['estimate']:.0f} s" in PAGE
    assert f"{results['ratio']['median']:.2f} of the time" in PAGE


def test_first_step():
    found = load("first_step")
    assert found["command"] in PAGE
    for name in ("first", "second", "import torch._dynamo"):
        assert f"| {found['seconds'][name]['median']:.2f} |" in PAGE


def test_startup_and_small_fits():
    startup, fits = load("startup"), load("small_fits")
    for name, ratio in (
        ("`import pvae` / `import pyro`", startup["import pvae / import pyro"]),
        ("`pvae --help` / `import pvae`", startup["pvae --help / import pvae"]),
        ("fit of digits / Pyro's loop", fits["digits"]["pvae / pyro"]),
        ("fit of masked sequences / Pyro's loop", fits["masked sequences"]["pvae / pyro"]),
    ):
        assert f"| {name} | {ratio['median']:.2f} |" in PAGE
    assert startup["command"] in PAGE
    assert fits["command"] in PAGE


@pytest.mark.parametrize(
    "name",
    [
        "semi_supervised",
        "tables",
        "frey_faces",
        "quadrants",
        "priors",
        "clusters",
        "chorales",
        "time_to_nll",
    ],
)
def test_zoo(name):
    results, module = load(name), script(name)
    assert results["command"] in PAGE
    for key, entry in results["entries"].items():
        row = module.row(key, entry) if name == "priors" else module.row(entry)
        assert row in PAGE
        assert {"seed", "epochs", "training_seconds", "hardware"} <= set(entry)


def test_aevb_paper():
    results = load("paper_aevb")
    assert results["command"] in PAGE
    of_mnist, of_faces = results["figure 2"].values()
    for way in of_mnist:
        bounds = [*of_mnist[way].values(), *of_faces[way].values()]
        assert f"| {way} | " + " | ".join(f"{b[-1]:.1f}" for b in bounds) + " |" in PAGE
    for few in (of_mnist, of_faces):
        assert all(few["AEVB"][z][-1] > few["wake-sleep"][z][-1] for z in few["AEVB"])
    for ways in results["figure 3"].values():
        assert all(f"{curve[-1][1]:.1f}" in PAGE for curve in ways.values())


def test_iwae_paper():
    entries = load("paper_iwae")["short"]
    means = []
    for objective, k in (("elbo", 1), ("elbo", 5), ("iwae", 5)):
        runs = entries[f"dynamic-1-{objective}-{k}"].values()
        nlls = [run["nll"] for run in runs]
        means.append(statistics.mean(nlls))
        units = statistics.mean(run["active_units"]["z1"] for run in runs)
        spread = f"{means[-1]:.2f} ± {statistics.stdev(nlls):.2f}"
        assert f"| {objective.upper()} | {k} | {spread} | {units:.0f} |" in PAGE
    assert means == sorted(means, reverse=True)


@pytest.mark.parametrize("name", ["processes", "memory"])
def test_costs(name):
    results, module = load(name), script(name)
    assert results["command"] in PAGE
    assert set(results["entries"]) == set(module.ENTRIES)
    for entry in results["entries"].values():
        assert module.row(entry) in PAGE
        assert {"seed", "hardware"} <= set(entry)
