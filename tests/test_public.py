"""Public names, and the examples in docstrings."""

import doctest
import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pvae

ROOT = Path(__file__).parents[1]
MODULES = sorted(
    name
    for _, name, _ in pkgutil.walk_packages(pvae.__path__, "pvae.")
    if name not in ("pvae.__main__",)
)


def test_public_names():
    assert pvae.__all__ == [
        "SVI",
        "DivergedError",
        "Fit",
        "IncompatibleObjectiveError",
        "PairError",
        "Report",
        "UndefinedQuantityError",
        "ais",
        "bdmc",
        "check",
        "data",
        "elbo",
        "evaluation",
        "fit",
        "guides",
        "infer",
        "likelihoods",
        "load",
        "log_likelihood",
        "models",
        "nn",
        "objectives",
        "plots",
        "reconstruct",
        "sample",
    ]
    assert pvae.models.__all__ == ["VAE", "HelmholtzMachine"]
    assert pvae.guides.__all__ == ["BottomUp", "FullRank", "Ladder", "MeanField"]


@pytest.mark.parametrize("name", MODULES)
def test_module_docstring_and_all(name):
    module = importlib.import_module(name)
    assert module.__doc__
    assert "\n" not in module.__doc__.strip() or name.count(".") == 1
    assert all(hasattr(module, public) for public in module.__all__)


@pytest.mark.parametrize("name", ["pvae", *MODULES])
def test_examples_in_docstrings(name):
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert result.failed == 0


@pytest.mark.parametrize("package", ["models", "guides"])
def test_bare_package_import_raises(package):
    code = [sys.executable, "-c", f"import {package}"]
    result = subprocess.run(code, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert f"pvae.{package}" in result.stderr


def test_import_has_no_side_effects():
    code = (
        "import torch, pyro; before = torch.get_rng_state(); import pvae; "
        "assert (torch.get_rng_state() == before).all(); assert not len(pyro.get_param_store())"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_readme_example(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    code = "\n".join(blocks)
    assert "epochs=100" in code
    exec(code.replace("epochs=100", "epochs=2"), {})
    assert "Bound(mean=" in capsys.readouterr().out
    assert (tmp_path / "reconstructions.png").stat().st_size > 1000
