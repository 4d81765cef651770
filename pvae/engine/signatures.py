"""What can be seen to decide the operations of a step: steps that share it share a recording."""

from collections.abc import Callable, Mapping, Sequence

import pyro
from torch import Tensor, nn

from pvae.engine.cache_key import Held

__all__ = ["Key", "Signature"]

Key = tuple[tuple[object, ...], ...]


class Signature:
    """The kind of a step of two programs: arguments, modes, parameters, buffers, and held values.

    Args:
        programs: model and guide.
        networks: theirs.
    """

    def __init__(
        self, programs: Mapping[str, Callable[..., object]], networks: Sequence[nn.Module]
    ) -> None:
        parts = [part for network in networks for part in network.modules()]
        self.held = Held(programs, networks)
        self.parameters = [p for part in parts for p in part._parameters.values() if p is not None]
        self.buffer_tables = [part._buffers for part in parts if part._buffers]

    @staticmethod
    def of_arguments(
        args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> tuple[object, ...] | None:
        """What of the arguments counts; None where an argument is not known to stay the same."""
        described = [_described(leaf) for leaf in (*args, *kwargs.values())]
        return None if None in described else (*described, *kwargs)

    def __call__(self, arguments: tuple[object, ...]) -> Key:
        """The kind of a step with such arguments, as things are now."""
        store = pyro.get_param_store()._params
        # Lists, as comprehensions are faster than generators: this is done in every step.
        return (
            arguments,
            self.held(),
            tuple([(id(p), p.data_ptr()) for p in store.values()]),
            tuple([p.requires_grad for p in self.parameters]),
            tuple([id(b) for table in self.buffer_tables for b in table.values()]),
        )


def _described(leaf: object) -> object:
    """What of an argument decides the operations; None where that is not known."""
    if isinstance(leaf, Tensor):
        return leaf.shape, leaf.dtype, leaf.device, leaf.requires_grad
    if isinstance(leaf, bool | int | float | str | type(None)):
        return type(leaf), leaf
    return None
