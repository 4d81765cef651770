"""Networks that are not the programs' own, in Pyro's parameter store."""

import pyro
from torch import nn

__all__ = ["registered"]


def registered(name: str, network: nn.Module) -> None:
    """Have Pyro's parameter store hold this network's parameters under a name, and no other's."""
    store = pyro.get_param_store()
    for inner, parameter in network.named_parameters():
        full = f"{name}$$${inner}"
        if full in store and store._params[full] is not parameter:
            del store[full]
    pyro.module(name, network)
