"""The tables of the README match the stored benchmark results."""

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "tests" / "benchmarks" / "results"


def rows(group):
    spec = importlib.util.spec_from_file_location(
        "helmholtz_benchmark", ROOT / "tests" / "benchmarks" / "helmholtz.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    results = json.loads((RESULTS / f"{group}_cpu.json").read_text())
    assert results["data"] == "binarized-mnist"
    names = {setting.name for setting in module.GROUPS[group]()}
    return results, names, module.row


@pytest.mark.parametrize("group", ["belief_networks", "gaussian_layers", "ladder"])
def test_helmholtz_tables(group):
    results, names, row = rows(group)
    readme = (ROOT / "README.md").read_text()
    assert set(results["entries"]) == names
    assert results["command"] in readme
    for entry in results["entries"].values():
        assert row(entry) in readme
        assert {"seed", "epochs", "training_seconds", "hardware", "engine"} <= set(entry)


def test_ladder_layers_active():
    results, _, _ = rows("ladder")
    layers = results["entries"]["ladder-5"]["kl_by_layer"]
    assert len(layers) == 5
    assert min(layers.values()) >= 0.5
