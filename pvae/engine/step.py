"""One gradient step as Pyro takes it: losses, parameters and gradients."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pyro
from pyro import poutine
from torch import Tensor

__all__ = ["Step", "eager_step"]


@dataclass(frozen=True)
class Step:
    """The outcome of one step.

    Attributes:
        losses: losses of the objective.
        several: whether the objective returns a tuple of losses.
        params: the parameters that the step used.
        trained: those of them that have a gradient.
        gradients: of `trained`.
    """

    losses: tuple[object, ...]
    several: bool
    params: list[Tensor]
    trained: list[Tensor]
    gradients: list[Tensor]


def eager_step(
    loss_and_grads: Callable[..., object],
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
    *,
    others: Sequence[Tensor] = (),
    validate: bool | None = None,
) -> Step:
    """One step of Pyro's; the parameters that it used hold their gradients, too.

    Args:
        loss_and_grads: the objective's `loss_and_grads` for the pair.
        args: positional arguments of the programs.
        kwargs: keyword arguments of the programs.
        others: parameters that are trained although the programs do not register them.
        validate: whether Pyro validates (default: as Pyro is set).
    """
    if validate is None:
        validate = pyro.infer.util.is_validation_enabled()
    for parameter in others:  # `preserve_state` and the optimizer know those in the store
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
