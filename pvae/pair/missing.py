"""Missing values: cells of observed sites that are NaN are marginalized by handlers."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from torch import Tensor, nn
from torch.distributions import constraints, transform_to

from pvae.pair.distributions import base_distribution, distribution_name, elementwise_support

__all__ = ["filled", "marginalized"]


def marginalized(model: Callable[..., object]) -> Callable[..., object]:
    """A model whose observed cells that are NaN count in no bound: the bound of the others.

    Args:
        model: p(x, z), called with x that has NaN where a value is missing. Its observed sites are
            independent over their elements given z, so that such a cell has the factor 1.
    """

    def run(*args: object, **kwargs: object) -> object:
        with _Marginalize():
            return model(*args, **kwargs)

    return run


class _Marginalize(Messenger):
    """Masks the elements of observed sites that are NaN."""

    def _pyro_sample(self, msg: Message[Any, Any]) -> None:
        value: Any = msg["value"]
        if not msg["is_observed"] or not isinstance(value, Tensor):
            return
        if not value.is_floating_point() or (msg["infer"] or {}).get("_deterministic"):
            return
        fn: Any = msg["fn"]
        holes = torch.isnan(value)
        event_dim = len(fn.event_shape)
        if len(base_distribution(fn).event_shape) or not _elementwise(fn, event_dim):
            if bool(holes.any()):
                raise ValueError(
                    f"site {msg['name']!r} has missing values, and its distribution "
                    f"{distribution_name(fn)} is not independent over its elements, so they cannot "
                    "be left out one by one: use a distribution with .to_event(...)"
                )
            return
        single = fn.base_dist if event_dim else fn
        msg["fn"] = single.mask(~holes).to_event(event_dim) if event_dim else fn.mask(~holes)
        msg["value"] = torch.where(holes, _inside(fn, value), value)


def _elementwise(fn: Any, event_dim: int) -> bool:
    return not event_dim or getattr(fn, "reinterpreted_batch_ndims", 0) == event_dim


def _inside(fn: Any, like: Tensor) -> Tensor:
    """Any value in the support of a distribution; its density is not used."""
    support = elementwise_support(fn)
    if support is None or support.is_discrete:
        return torch.ones_like(like)
    if isinstance(support, type(constraints.real)):
        return torch.zeros_like(like)
    try:
        inside: Tensor = transform_to(support)(torch.zeros_like(like))
    except NotImplementedError:
        return torch.ones_like(like)
    return inside


def filled(guide: Callable[..., object]) -> Callable[..., object]:
    """A guide that is given 0 for cells of x that are NaN, and their mask if it names `missing`.

    Args:
        guide: q(z | x), called with x that has NaN where a value is missing.
    """
    program = guide.forward if isinstance(guide, nn.Module) else guide
    parameters = inspect.signature(program).parameters
    named = "missing" in parameters

    def run(x: Tensor, *more: object, **kwargs: object) -> object:
        holes = torch.isnan(x)
        if named:
            kwargs["missing"] = holes
        return guide(x.masked_fill(holes, 0), *more, **kwargs)

    return run
