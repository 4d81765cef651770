"""Public names, and the examples in docstrings."""

import doctest
import importlib
import inspect
import pkgutil
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
        "decode",
        "elbo",
        "evaluation",
        "fit",
        "guides",
        "impute",
        "infer",
        "interpolate",
        "likelihoods",
        "load",
        "log_likelihood",
        "log_predictive",
        "marginals",
        "models",
        "nn",
        "objectives",
        "plots",
        "posterior",
        "predict",
        "priors",
        "reconstruct",
        "sample",
    ]
    assert sorted(pvae.models.__all__) == [
        "Autoencoder",
        "BayesianVAE",
        "CVAE",
        "DMM",
        "GMVAE",
        "HelmholtzMachine",
        "PPCA",
        "SSVAE",
        "Tabular",
        "VAE",
    ]
    assert sorted(pvae.guides.__all__) == [
        "BottomUp",
        "Classifier",
        "Clusters",
        "Combiner",
        "Conditional",
        "Flow",
        "FullRank",
        "Ladder",
        "LowRank",
        "MeanField",
        "Mixture",
        "PerDatum",
        "Point",
        "Tabular",
        "Weights",
    ]


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


PACKAGES = ("data", "evaluation", "guides", "likelihoods", "models", "nn", "objectives", "plots")


def public():
    """Every public function and class, by its dotted name."""
    found = {}
    for package in ("", *PACKAGES):
        module = getattr(pvae, package) if package else pvae
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value) or inspect.isfunction(value):
                found[f"pvae.{package}.{name}".replace("..", ".")] = value
    return found


@pytest.mark.parametrize("name", sorted(public()))
def test_examples(name):
    """Each has an example, which the doctests above run."""
    assert ">>>" in (inspect.getdoc(public()[name]) or ""), name


def test_dir():
    assert dir(pvae) == sorted([*pvae.__all__, "__version__"])


@pytest.mark.parametrize("command", ["import pvae", "import pvae.cli"])
def test_slow_imports(command):
    """Importing pvae loads no package that only some users need."""
    code = f"""if True:
        import sys; {command}
        slow = {{'matplotlib', 'sklearn', 'pooch', 'click'}} & set(sys.modules)
        assert slow <= {{'click'}} if 'cli' in '{command}' else not slow, slow
        """
    subprocess.run([sys.executable, "-c", code], check=True)


def test_module_command():
    command = [sys.executable, "-m", "pvae", "--version"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert pvae.__version__ in result.stdout


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
