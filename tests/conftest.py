import os
import tempfile

import pyro
import pytest
import torch

if "PYTEST_XDIST_WORKER" in os.environ:  # one process per core: threads would wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def cache():
    """Begin without compiled steps of earlier sessions."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("PVAE_CACHE", folder)
        yield


@pytest.fixture(autouse=True)
def clean():
    """Start each test with an empty parameter store and seeded generators."""
    pyro.set_rng_seed(0)
    with pyro.get_param_store().scope():
        yield
    assert torch.get_default_dtype() == torch.float32
