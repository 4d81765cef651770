"""What programs register while they run."""

import sys
from collections.abc import Callable
from typing import cast

import pyro
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

__all__ = ["Registrations", "register"]


def register(name: str, network: nn.Module) -> None:
    """Register a network in Pyro's parameter store, replacing another one of the same name."""
    store = pyro.get_param_store()
    for inner, parameter in network.named_parameters():
        full = f"{name}$$${inner}"
        if full in store and store._params[full] is not parameter:
            del store[full]
    pyro.module(name, network)


class Registrations(Messenger):
    """Records the networks passed to `pyro.module`, and moves new parameters to a device.

    Args:
        device: where registered networks and parameters belong; None leaves them where they are.

    Attributes:
        networks: name and network of each `pyro.module` call, each network once.
    """

    def __init__(self, device: torch.device | None) -> None:
        super().__init__()
        self.device = device
        self.networks: list[tuple[str, nn.Module]] = []

    def _pyro_param(self, msg: dict[str, object]) -> None:
        name, *init = cast(tuple[object, ...], msg["args"])
        if "$$$" in str(name):
            self._record(_module_argument())
        if self.device is None:
            return
        if init and isinstance(init[0], nn.Parameter):
            init[0].data = init[0].data.to(self.device)
        elif init and isinstance(init[0], Tensor):
            msg["args"] = (name, init[0].to(self.device), *init[1:])
        elif init and callable(init[0]):
            make = cast(Callable[[], Tensor], init[0])
            msg["args"] = (name, lambda: make().to(self.device), *init[1:])

    def _record(self, found: tuple[str, nn.Module] | None) -> None:
        if found is None or any(found[1] is network for _, network in self.networks):
            return
        name, network = found
        self.networks.append((name, network if self.device is None else network.to(self.device)))


def _module_argument() -> tuple[str, nn.Module] | None:
    """The name and network of the `pyro.module` call that is being executed.

    `pyro.module` sends a message for each parameter but none for the network, and may have been
    imported under any name, so they are read from its frame.
    """
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code is pyro.primitives.module.__code__:
            return frame.f_locals["name"], frame.f_locals["nn_module"]
        if frame.f_back is None:
            return None
        frame = frame.f_back
    return None
