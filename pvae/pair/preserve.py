"""Preserve and restore state: random number generators, buffers, gradients, flags and modes."""

import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import cast

import numpy as np
import pyro
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pvae._seeds import named_seed
from pvae.pair.discovery import reach
from pvae.pair.program import Program

__all__ = [
    "evaluation_mode",
    "generator_state",
    "preserve_flags",
    "preserve_generators",
    "preserve_gradients",
    "preserve_modes",
    "preserve_state",
    "preserve_tensors",
    "restore_generators",
    "seeded",
]


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
    """Restore a state that `generator_state` returned."""
    torch.set_rng_state(cast(Tensor, state["torch"]).cpu())
    for index, device_state in enumerate(cast(list[Tensor], state["cuda"])):
        torch.cuda.set_rng_state(device_state.cpu(), index)
    keys, position, has_gauss, cached = cast(tuple[Tensor, int, int, float], state["numpy"])
    numpy_state = ("MT19937", keys.numpy().astype(np.uint32), position, has_gauss, cached)
    np.random.set_state(numpy_state)
    version, internal, gauss = cast(tuple[int, list[int], float | None], state["python"])
    random.setstate((version, tuple(internal), gauss))


@contextmanager
def preserve_generators() -> Iterator[None]:
    """Restore the random number generators on exit."""
    # The states as they are: the conversions of `generator_state` would cost a millisecond.
    torch_state, numpy_state, python_state = (
        torch.get_rng_state(),
        np.random.get_state(),
        random.getstate(),
    )
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        yield
    finally:
        torch.set_rng_state(torch_state)
        for index, state in enumerate(cuda_states):
            torch.cuda.set_rng_state(state, index)
        np.random.set_state(numpy_state)
        random.setstate(python_state)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed all generators on entry, by a hash of the seed, and restore them on exit."""
    with preserve_generators():
        pyro.set_rng_seed(named_seed(seed, "programs"))
        yield


@contextmanager
def preserve_tensors(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Restore the values of buffers or parameters on exit, in place."""
    before = [tensor.detach().clone() for tensor in tensors]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in zip(tensors, before, strict=True):
                tensor.copy_(value)


@contextmanager
def preserve_gradients(parameters: Collection[Tensor]) -> Iterator[None]:
    """Clear gradients on entry and restore them on exit.

    Args:
        parameters: may be a live view, such as the values of Pyro's parameter store; a parameter
            that the block adds has no gradient afterwards.
    """
    gradients = {id(parameter): parameter.grad for parameter in parameters}
    for parameter in parameters:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.grad = gradients.get(id(parameter))


@contextmanager
def preserve_state(networks: Sequence[nn.Module]) -> Iterator[None]:
    """Restore generators, buffers and gradients on exit, so that a step leaves no trace.

    Args:
        networks: those whose buffers may change. Gradients are those of Pyro's parameter store.
    """
    buffers = [buffer for network in networks for buffer in network.buffers()]
    parameters = pyro.get_param_store()._params.values()
    with preserve_gradients(parameters), preserve_tensors(buffers), preserve_generators():
        yield


@contextmanager
def preserve_flags(parameters: Sequence[Tensor]) -> Iterator[None]:
    """Restore `requires_grad` on exit."""
    flags = [(p, p.requires_grad) for p in parameters if not is_lazy(p)]
    try:
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


@contextmanager
def preserve_modes(networks: Sequence[nn.Module]) -> Iterator[None]:
    """Restore train and eval modes, module by module, on exit."""
    modes = [(part, part.training) for network in networks for part in network.modules()]
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


@contextmanager
def evaluation_mode(*programs: Callable[..., object]) -> Iterator[None]:
    """Put the networks of programs into eval mode, and restore their modes on exit."""
    raw = {str(i): p for i, p in enumerate(programs) if not isinstance(p, Program)}
    networks = [network for _, network in reach(raw, nn.Module)]
    for program in programs:
        if isinstance(program, Program):
            networks += program.pair.networks.values()
    with preserve_modes(networks):
        for network in networks:
            network.eval()
        yield
