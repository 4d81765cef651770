"""The tutorials run top to bottom, in their short form, and say what their prose says."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "tutorials"
FIGURES = {
    "01_first_vae": {
        "01_learning_curve", "01_reconstructions", "01_samples", "01_latent_means", "01_manifold",
        "01_zoo_reconstructions",
    },
    "02_your_own_pair": {"02_latent_means", "02_reconstructions", "02_learning_curve"},
}  # fmt: skip


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """What each tutorial prints, run in an empty folder without any data set at hand."""
    found = {}
    for name in FIGURES:
        folder = tmp_path_factory.mktemp(name)
        environment = {k: v for k, v in os.environ.items() if k != "PVAE_DATA"}
        result = subprocess.run(
            [sys.executable, str(FOLDER / f"{name}.py")],
            cwd=folder,
            env=environment | {"PVAE_SHORT": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        found[name] = result.stdout, {path.stem for path in (folder / "figures").glob("*.png")}
    return found


def test_every_tutorial_is_run():
    assert {path.stem for path in FOLDER.glob("*.py")} == set(FIGURES)


@pytest.mark.parametrize("name", FIGURES)
def test_every_tutorial_draws_its_pictures(outputs, name):
    assert outputs[name][1] == FIGURES[name]


def test_the_first_vae_improves_and_its_evidence_is_above_its_bound(outputs):
    text = outputs["01_first_vae"][0]
    first = float(re.search(r"validation bound: (-[\d.]+)", text)[1])
    best = float(re.search(r"(-[\d.]+) at its best", text)[1])
    assert best > first
    bound = float(re.search(r"ELBO +(-[\d.]+)", text)[1])
    evidence = float(re.search(r"log-likelihood +(-[\d.]+)", text)[1])
    assert evidence > bound


def test_the_pair_of_ones_own_beats_its_baseline_and_every_mistake_is_refused(outputs):
    text = outputs["02_your_own_pair"][0]
    baseline, pair = (float(v) for v in re.findall(r"(?:sensors|pair) +(-[\d.]+)", text))
    assert pair > baseline
    assert "the loaded pair gives the same bound: True" in text
    for message in (
        "guide has no site 'z'; the model samples ['z'], the guide []",
        "guide samples 'code', but the model has no such site",
        "02_your_own_pair.py:",
        "Shape mismatch inside plate('data') at site x",
        "outside the support of Bernoulli",
        "x has NaN or infinity in 1 of its 600 rows, counted from 0: 17",
        "batch_size 1000 is above the 600 rows",
    ):
        assert message in text


@pytest.mark.parametrize("name", FIGURES)
def test_public_names_only(name):
    tree = ast.parse((FOLDER / f"{name}.py").read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom | ast.Import):
            modules = [getattr(node, "module", None) or alias.name for alias in node.names]
            assert not any(module.startswith("pvae.") for module in modules)
        if isinstance(node, ast.Attribute):
            assert not node.attr.startswith("_") or node.attr.startswith("__")
