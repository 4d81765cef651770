"""Distributions of sites: what they wrap, and their supports."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from pyro.distributions import Delta, Distribution, Independent, MaskedDistribution, constraints
from torch import Tensor

__all__ = [
    "base_distribution",
    "distribution_name",
    "elementwise_support",
    "is_delta",
    "is_discrete",
    "is_unvalidated",
    "own_masks",
    "same_density",
    "unmasked",
    "value_masks",
]


def base_distribution(fn: object) -> Any:
    """The distribution that the user called, without `to_event`, `mask`, `expand` around it.

    Example:
        >>> import pyro.distributions as dist
        >>> base_distribution(dist.Normal(0.0, 1.0).expand([3]).to_event(1))
        Normal(loc: torch.Size([3]), scale: torch.Size([3]))
    """
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return fn


def distribution_name(fn: object) -> str:
    """The class name of `base_distribution(fn)`."""
    return type(base_distribution(fn)).__name__


def is_delta(fn: object) -> bool:
    """Whether the distribution is a point mass."""
    return isinstance(base_distribution(fn), Delta)


def is_unvalidated(fn: Distribution) -> bool:
    """Whether the user made a distribution with validate_args=False, in a validated run."""
    return vars(base_distribution(fn)).get("_validate_args") is False


def elementwise_support(fn: Distribution) -> constraints.Constraint | None:
    """The support of a single element, or of an event that has no elementwise one; None if unknown.

    Example:
        >>> import pyro.distributions as dist
        >>> elementwise_support(dist.Gamma(1.0, 1.0).expand([3]).to_event(1))
        GreaterThanEq(lower_bound=0.0)
    """
    try:
        support: constraints.Constraint | None = cast(Any, fn).support
    except NotImplementedError:
        return None
    while isinstance(support, constraints.independent):  # `to_event` only collects elements
        support = support.base_constraint
    return support


def is_discrete(fn: Distribution) -> bool:
    """Whether the support is known to be discrete.

    Example:
        >>> import pyro.distributions as dist
        >>> is_discrete(dist.Poisson(1.0)), is_discrete(dist.Normal(0.0, 1.0))
        (True, False)
    """
    support = elementwise_support(fn)
    return support is not None and bool(support.is_discrete)


def same_density(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether a site has the same density in two runs, judged at both of its values.

    Raises:
        LookupError or NotImplementedError: if the density is known at its own draws alone, as that
            of a flow without an inverse.
    """
    return all(
        torch.allclose(one["fn"].log_prob(value), other["fn"].log_prob(value), 1e-3, 1e-3)
        for value in (one["value"].clone(), other["value"].clone())
    )


def unmasked(fn: Any) -> Any:
    """The distribution without its masks (`fn.mask(m)`); it has the same draws.

    Example:
        >>> import pyro.distributions as dist
        >>> unmasked(dist.Normal(0.0, 1.0).expand([3]).mask(False).to_event(1))
        Independent(Normal(loc: torch.Size([3]), scale: torch.Size([3])), 1)
    """
    if isinstance(fn, MaskedDistribution):
        return unmasked(fn.base_dist)
    if isinstance(fn, Independent):
        base = unmasked(fn.base_dist)
        return fn if base is fn.base_dist else base.to_event(fn.reinterpreted_batch_ndims)
    return fn


def own_masks(fn: Any) -> list[bool | Tensor]:
    """The masks of a distribution (`fn.mask(m)`), each broadcastable to the shape of its values.

    Example:
        >>> import pyro.distributions as dist
        >>> (mask,) = own_masks(dist.Dirichlet(torch.ones(3, 5)).mask(torch.ones(3).bool()))
        >>> mask.shape
        torch.Size([3, 1])
    """
    found = []
    while hasattr(fn, "base_dist"):
        if isinstance(fn, MaskedDistribution):
            found.append(_of_elements(fn._mask, len(fn.event_shape)))
        fn = fn.base_dist
    return found


def value_masks(site: Mapping[str, Any]) -> list[bool | Tensor]:
    """The masks of a site, by handlers and by its distribution, broadcastable to its value."""
    by_handlers = [] if site["mask"] is None else [site["mask"]]
    events = len(site["fn"].event_shape)
    return [*(_of_elements(mask, events) for mask in by_handlers), *own_masks(site["fn"])]


def _of_elements(mask: bool | Tensor, event_dim: int) -> bool | Tensor:
    """A mask of a batch shape, with as many dimensions of size 1 as an event has."""
    return mask.reshape(*mask.shape, *(1,) * event_dim) if isinstance(mask, Tensor) else mask
