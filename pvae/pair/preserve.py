"""Random number generators: seeding within a block, and their states as plain tensors."""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import cast

import numpy as np
import pyro
import torch
from torch import Tensor

__all__ = ["generator_state", "preserved", "restore_generators", "seeded"]


def generator_state() -> dict[str, object]:
    """The states of torch's, NumPy's and Python's generators, in types that load without pickle."""
    _, keys, position, has_gauss, cached = np.random.get_state()
    version, internal, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "numpy": [torch.from_numpy(np.array(keys, np.int64)), position, has_gauss, cached],
        "python": [version, list(internal), gauss],
    }


def restore_generators(state: Mapping[str, object]) -> None:
    """Put the generators into a state that `generator_state` returned."""
    torch.set_rng_state(cast(Tensor, state["torch"]).cpu())
    for index, device_state in enumerate(cast(list[Tensor], state["cuda"])):
        torch.cuda.set_rng_state(device_state.cpu(), index)
    keys, position, has_gauss, cached = cast(tuple[Tensor, int, int, float], state["numpy"])
    numpy_state = ("MT19937", keys.numpy().astype(np.uint32), position, has_gauss, cached)
    np.random.set_state(numpy_state)
    version, internal, gauss = cast(tuple[int, list[int], float | None], state["python"])
    random.setstate((version, tuple(internal), gauss))


@contextmanager
def preserved() -> Iterator[None]:
    """Leave the generators after the block as they were before it."""
    state = generator_state()
    try:
        yield
    finally:
        restore_generators(state)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed all generators for the block alone."""
    with preserved():
        pyro.set_rng_seed(seed)
        yield
