"""What two programs register while they run: networks by `pyro.module`, values by `pyro.param`."""

import sys
from collections.abc import Callable
from typing import cast

import pyro
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

__all__ = ["Watch"]


class Watch(Messenger):
    """Sees which networks are passed to `pyro.module`, and moves what is made to a device."""

    def __init__(self, device: torch.device | None) -> None:
        super().__init__()
        self.device = device
        self.networks: list[tuple[str, nn.Module]] = []

    def _pyro_param(self, msg: dict[str, object]) -> None:
        name, *init = cast(tuple[object, ...], msg["args"])
        if "$$$" in str(name):
            self._see(_module_argument())
        if self.device is None:
            return
        if init and isinstance(init[0], nn.Parameter):
            init[0].data = init[0].data.to(self.device)
        elif init and isinstance(init[0], Tensor):
            msg["args"] = (name, init[0].to(self.device), *init[1:])
        elif init and callable(init[0]):
            make = cast(Callable[[], Tensor], init[0])
            msg["args"] = (name, lambda: make().to(self.device), *init[1:])

    def _see(self, found: tuple[str, nn.Module] | None) -> None:
        if found is None or any(found[1] is network for _, network in self.networks):
            return
        name, network = found
        self.networks.append((name, network if self.device is None else network.to(self.device)))


def _module_argument() -> tuple[str, nn.Module] | None:
    """The name and network of the `pyro.module` call that is under way.

    `pyro.module` sends a message for each parameter but none for the network, and may have been
    imported under any name: its frame is the one place that tells.
    """
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code is pyro.primitives.module.__code__:
            return frame.f_locals["name"], frame.f_locals["nn_module"]
        if frame.f_back is None:
            return None
        frame = frame.f_back
    return None
