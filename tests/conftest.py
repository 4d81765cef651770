import importlib.util
import sys
from pathlib import Path

import pyro
import pytest
import torch

TESTS = Path(__file__).parent


def load_file(name: str):
    """Import a file of this folder; under importlib mode tests cannot import each other."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, TESTS / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]


load_file("kinds_of_pair")
load_file("linear_gaussian")
load_file("linear_hierarchy")
load_file("pairs_to_record")
load_file("wrong_pairs")
load_file("wrong_structure")
load_file("wrong_plates")
load_file("wrong_training")
load_file("wrong_distributions")
load_file("right_pairs")
load_file("small_pairs")
load_file("small_gaussians")
load_file("small_beliefs")
load_file("exact_objectives")
load_file("gradient_draws")


@pytest.fixture(autouse=True)
def clean():
    """Each test starts with an empty parameter store, and the same generators."""
    pyro.set_rng_seed(0)
    with pyro.get_param_store().scope():
        yield
    assert torch.get_default_dtype() == torch.float32
