"""Requirements of Hamiltonian Monte Carlo on a pair: continuous latents in a data plate."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pyro
import torch
from pyro import poutine
from torch.distributions import biject_to

from pvae.evaluation.context import EvaluationContext, context_of
from pvae.evaluation.estimate import UndefinedQuantityError
from pvae.pair.distributions import is_delta
from pvae.pair.plate import DataPlate
from pvae.pair.traces import Site, latent_sites, sample_sites

__all__ = ["chain_context", "start_guide"]

_INSTEAD = "estimate log p(x) with pvae.log_likelihood instead"


def start_guide(guide: Callable[..., object], start: str) -> Callable[..., object] | None:
    """The guide, or None if chains start from the prior.

    Raises:
        ValueError: if the start is neither "guide" nor "prior".
    """
    if start not in ("guide", "prior"):
        raise ValueError(f"start is {start!r}: give 'guide' or 'prior'")
    return guide if start == "guide" else None


@contextmanager
def chain_context(
    model: Callable[..., object], guide: Callable[..., object] | None, data: object, seed: int
) -> Iterator[tuple[EvaluationContext, DataPlate]]:
    """The context of a pair that chains can run on, evaluating; and its data plate.

    Args:
        model: p(x, z).
        guide: q(z | x), or None if it is not used.
        data: what `pvae.elbo` takes.
        seed: seeds the generators, which are restored on exit.

    Raises:
        UndefinedQuantityError: if chains cannot run on the pair.
    """
    context = context_of(model, guide, data)
    # Gradients in z are needed even if the caller is in inference mode.
    with context.evaluating(seed), torch.inference_mode(False), torch.no_grad():
        plate = context.require_plate(_INSTEAD)
        context.require_whole_data()
        _check_model(context.model_trace, plate)
        again, _ = context.traces(context.source.first(2))
        _check_supports(latent_sites(context.model_trace), latent_sites(again))
        if guide is not None:
            _check_guide(context.guide_trace, latent_sites(context.model_trace), plate)
        # A trajectory may leave the range of floats, and is then rejected: no reason to stop.
        with pyro.validation_enabled(False):
            yield context, plate


def _check_model(trace: poutine.Trace, plate: DataPlate) -> None:
    latents = latent_sites(trace)
    if not latents:
        raise UndefinedQuantityError(f"the model has no latent site to run chains on: {_INSTEAD}")
    outside = sorted(name for name, site in sample_sites(trace) if plate.frame(site) is None)
    if outside:
        raise UndefinedQuantityError(
            f"sites {outside} are global (outside the data plate), so log p(x) is not a mean over "
            "data; estimate the bound with pvae.elbo instead"
        )
    for name, site in latents.items():
        try:
            support = site["fn"].support
            smooth = not support.is_discrete and not is_delta(site["fn"])
            if smooth:
                biject_to(support)
        except NotImplementedError as error:
            raise UndefinedQuantityError(
                f"site {name!r} has a support that cannot be mapped to the reals ({error}): "
                f"{_INSTEAD}"
            ) from error
        if not smooth:
            raise UndefinedQuantityError(
                f"site {name!r} ({site['fn']}) has no density over the reals, and Hamiltonian "
                f"Monte Carlo needs continuous latents: {_INSTEAD}"
            )


def _check_supports(once: dict[str, Site], again: dict[str, Site]) -> None:
    """Require supports that do not depend on other latent sites."""
    for name, site in once.items():
        ends = [biject_to(each["fn"].support) for each in (site, again[name])]
        zeros = site["value"].new_zeros(ends[0].inverse_shape(site["value"].shape))
        if not torch.equal(ends[0](zeros), ends[1](zeros)):
            raise UndefinedQuantityError(
                f"site {name!r} has a support that depends on other latents, and chains need a "
                f"fixed one: scale a site of fixed support, or {_INSTEAD}"
            )


def _check_guide(trace: poutine.Trace, latents: dict[str, Site], plate: DataPlate) -> None:
    proposed = dict(sample_sites(trace))
    for name in latents:
        if name not in proposed:
            raise UndefinedQuantityError(
                f"guide has no site {name!r}; the model samples {list(latents)}: add one to the "
                "guide, or give start='prior'"
            )
    for name, site in proposed.items():
        if name not in latents:
            raise UndefinedQuantityError(
                f"guide has an auxiliary site {name!r}, so log q(z | x) is an unknown integral "
                f"over it: give start='prior', or {_INSTEAD}"
            )
        if plate.frame(site) is None:
            raise UndefinedQuantityError(
                f"site {name!r} of the guide is outside the data plate: move it inside, or give "
                "start='prior'"
            )
        if is_delta(site["fn"]):
            raise UndefinedQuantityError(
                f"site {name!r} of the guide is a point mass (Delta), which has no density: "
                "give start='prior'"
            )
        try:
            # At values other than its own draws, whose inverse a flow caches.
            site["fn"].log_prob(site["value"].clone())
        except (NotImplementedError, KeyError) as error:
            raise UndefinedQuantityError(
                f"site {name!r} of the guide has no density at values other than its own draws (a "
                f"flow without an inverse): give start='prior', or {_INSTEAD}"
            ) from error
