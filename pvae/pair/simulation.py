"""Simulate data from the model, together with the latent variables that generated them."""

from collections.abc import Callable
from typing import cast

import torch
from pyro import poutine
from pyro.poutine.util import site_is_factor
from torch import Tensor

from pvae.pair.interventions import unobserved
from pvae.pair.traces import observed_sites, sample_sites

__all__ = ["arguments_observed", "simulate"]


def arguments_observed(model: Callable[..., object], batch: tuple[Tensor, ...]) -> dict[str, int]:
    """The index of the argument that each observed site observes.

    Args:
        model: p(x, z), called with one batch.
        batch: the arguments, each of shape (rows, ...).

    Raises:
        ValueError: if a site observes no argument unchanged (up to its shape and type), two sites
            observe the same one, or the model has a `pyro.factor`.
    """
    # Random floats occur once, so that an observed value identifies its argument.
    probe = tuple(
        torch.rand_like(part) if part.is_floating_point() else part.clone() for part in batch
    )
    trace = poutine.trace(model).get_trace(*probe)
    factors = [name for name, site in sample_sites(trace) if site_is_factor(site)]  # type: ignore[arg-type]
    if factors:
        raise ValueError(
            f"the model has factors {factors}, from which no data can be drawn: write them as "
            "observed sample sites"
        )
    found: dict[str, int] = {}
    for name, site in observed_sites(trace).items():
        same = [i for i, part in enumerate(probe) if site["value"] is part]
        same = same or [i for i, part in enumerate(probe) if _equal(site["value"], part)]
        free = [i for i in same if i not in found.values()]
        if len(free) > 1:
            raise ValueError(
                f"site {name!r} observes one of arguments {free}, which have the same values here: "
                "observe an argument as it is, or try data in which they differ"
            )
        if not free:
            raise ValueError(
                f"site {name!r} observes no argument of the model unchanged, so simulated "
                "data cannot be passed to the guide: transform the data before they are passed to "
                "the model"
            )
        found[name] = free[0]
    return found


def simulate(
    model: Callable[..., object], batch: tuple[Tensor, ...], observed: dict[str, int]
) -> tuple[poutine.Trace, tuple[Tensor, ...]]:
    """Draw latent variables from the prior and data from the likelihood, once per row.

    Args:
        model: p(x, z), called with one batch.
        batch: arguments with the shapes and types of the draws, each (rows, ...); arguments that
            the model only conditions on are kept.
        observed: from `arguments_observed`.

    Returns:
        The trace of the draw, and the batch with the observed arguments replaced by draws.
    """
    trace = poutine.trace(unobserved(model)).get_trace(*batch)
    drawn = list(batch)
    for name, index in observed.items():
        value = cast(Tensor, trace.nodes[name]["value"])
        drawn[index] = value.reshape(batch[index].shape).to(batch[index].dtype)
    return trace, tuple(drawn)


def _equal(value: object, part: Tensor) -> bool:
    if not isinstance(value, Tensor) or value.numel() != part.numel():
        return False
    return bool((value.reshape(part.shape) == part).all())
