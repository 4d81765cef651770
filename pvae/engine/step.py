"""One step of Pyro's: its losses and gradients, and taking it without leaving a trace."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from pvae.pair.preserve import preserved

__all__ = ["Step", "eager_step", "undone"]


@dataclass(frozen=True)
class Step:
    """What one step gives.

    Attributes:
        losses: the objective's.
        several: whether the objective gives a tuple of losses.
        params: the parameters that the step met.
        trained: those of them that have a gradient.
        gradients: of `trained`.
    """

    losses: tuple[object, ...]
    several: bool
    params: list[Tensor]
    trained: list[Tensor]
    gradients: list[Tensor]


@contextmanager
def undone(networks: Sequence[nn.Module]) -> Iterator[None]:
    """Generators, buffers and gradients are after the block as they were before it."""
    before = [(b, b.detach().clone()) for network in networks for b in network.buffers()]
    store = pyro.get_param_store()
    gradients = {id(p): p.grad for p in store._params.values()}
    for parameter in store._params.values():
        parameter.grad = None
    try:
        with preserved():
            yield
    finally:
        for parameter in store._params.values():
            parameter.grad = gradients.get(id(parameter))
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)


def eager_step(
    loss_and_grads: Callable[..., object],
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
    *,
    others: Sequence[Tensor] = (),
    validate: bool | None = None,
) -> Step:
    """One step of Pyro's; the parameters that it met hold their gradients too.

    Args:
        loss_and_grads: the objective's, of the pair.
        args: of the programs.
        kwargs: likewise.
        others: parameters that count although the programs do not register them.
        validate: whether Pyro validates; as it is set where nothing is said.
    """
    if validate is None:
        validate = pyro.infer.util.is_validation_enabled()
    for parameter in others:  # `undone` and the optimizer know those in the store
        parameter.grad = None
    with poutine.trace(param_only=True) as seen, pyro.validation_enabled(validate):
        loss = loss_and_grads(*args, **kwargs)
    sites = cast("list[dict[str, Any]]", list(seen.trace.nodes.values()))
    params = list(dict.fromkeys([*(site["value"].unconstrained() for site in sites), *others]))
    trained = [p for p in params if p.grad is not None]
    gradients = [cast(Tensor, p.grad) for p in trained]
    several = isinstance(loss, tuple)
    losses = cast("tuple[object, ...]", loss) if several else (loss,)
    return Step(losses, several, params, trained, gradients)
