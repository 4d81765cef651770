"""What chains ask of a pair: continuous latents, each inside a vectorized data plate."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import biject_to

from pvae.data import Rows
from pvae.evaluation.blocks import refuse_neighbours
from pvae.evaluation.estimate import UndefinedError
from pvae.pair.log_prob import DataPlate, data_plate
from pvae.pair.modes import evaluating
from pvae.pair.preserve import seeded
from pvae.pair.sources import source_for
from pvae.pair.traces import Site, latent_sites, paired_traces, sample_sites

__all__ = ["at_least_one", "prepared", "proposal"]

_INSTEAD = "estimate log p(x) with pvae.log_likelihood instead"


def at_least_one(**numbers: int) -> None:
    """Check options that count something.

    Raises:
        ValueError: a number is below 1.
    """
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} is {number}: give at least 1")


def proposal(guide: Callable[..., object], start: str) -> Callable[..., object] | None:
    """The guide, or None where chains start from the prior.

    Raises:
        ValueError: a start that is neither.
    """
    if start not in ("guide", "prior"):
        raise ValueError(f"start is {start!r}: give 'guide' or 'prior'")
    return guide if start == "guide" else None


@contextmanager
def prepared(
    model: Callable[..., object], guide: Callable[..., object] | None, data: object, seed: int
) -> Iterator[tuple[Rows, DataPlate]]:
    """The data and the data plate of a pair, checked; networks in eval mode, generators seeded.

    Args:
        model: p(x, z).
        guide: q(z | x), or None where it is not used.
        data: a tensor of shape (N, ...), a tuple of such, or a split of a data set.
        seed: seeds the generators, which are left as they are outside.

    Raises:
        UndefinedError: a pair that chains cannot be run on.
    """
    programs = (model,) if guide is None else (model, guide)
    source = source_for(data, *programs)

    def traces(batch: tuple[Tensor, ...]) -> tuple[poutine.Trace, poutine.Trace]:
        if guide is not None:
            return paired_traces(model, guide, batch)
        return poutine.trace(model).get_trace(*batch), poutine.Trace()

    # Gradients in z are needed even where the caller is in inference mode.
    with seeded(seed), torch.inference_mode(False), torch.no_grad(), evaluating(*programs):
        head = source.first(2)
        plate = _checked_plate(data_plate(traces, head))
        model_trace, guide_trace = traces(head)
        _check_model(model_trace, plate)
        _check_supports(latent_sites(model_trace), latent_sites(traces(head)[0]))
        if guide is not None:
            _check_guide(guide_trace, latent_sites(model_trace), plate)
        refuse_neighbours(model, guide if guide is not None else model, plate, source)
        # A trajectory may leave the numbers, and is then rejected: no reason to stop.
        with pyro.validation_enabled(False):
            yield source, plate


def _checked_plate(plate: DataPlate | None) -> DataPlate:
    if plate is None:
        raise UndefinedError(
            "no plate of the batch's size encloses the observed sites, so that chains of different "
            f"data cannot be told apart: write `with pyro.plate('data', len(x))`, or {_INSTEAD}"
        )
    if not plate.vectorized:
        raise UndefinedError(
            f"plate {plate.name!r} is a loop, and chains are rows of one batch: write `with "
            f"pyro.plate({plate.name!r}, ...)`, or {_INSTEAD}"
        )
    if plate.subsamples:
        raise UndefinedError(
            f"plate {plate.name!r} subsamples by itself, and cannot be evaluated datum by datum: "
            "pass the subsample as the batch"
        )
    return plate


def _check_model(trace: poutine.Trace, plate: DataPlate) -> None:
    latents = latent_sites(trace)
    if not latents:
        raise UndefinedError(
            f"the model has no latent site, so there is nothing to anneal: {_INSTEAD}"
        )
    outside = sorted(name for name, site in sample_sites(trace) if plate.frame(site) is None)
    if outside:
        raise UndefinedError(
            f"sites {outside} are outside the data plate: all data share them, so log p(x) is no "
            "mean over data; estimate the bound with pvae.elbo instead"
        )
    for name, site in latents.items():
        try:
            support = site["fn"].support
            smooth = not support.is_discrete and not _is_delta(site)
            if smooth:
                biject_to(support)
        except NotImplementedError as error:
            raise UndefinedError(
                f"site {name!r} has a support that cannot be mapped to the reals ({error}): "
                f"{_INSTEAD}"
            ) from error
        if not smooth:
            raise UndefinedError(
                f"site {name!r} ({site['fn']}) has no density over the reals, and Hamiltonian "
                f"Monte Carlo moves continuous latents alone: {_INSTEAD}"
            )


def _check_supports(once: dict[str, Site], again: dict[str, Site]) -> None:
    """Chains keep to the supports that a site had at the first draw of the others."""
    for name, site in once.items():
        ends = [biject_to(each["fn"].support) for each in (site, again[name])]
        zeros = site["value"].new_zeros(ends[0].inverse_shape(site["value"].shape))
        if not torch.equal(ends[0](zeros), ends[1](zeros)):
            raise UndefinedError(
                f"site {name!r} has a support that depends on other latents, and chains need one "
                f"that stays: let the parameters scale a site of fixed support, or {_INSTEAD}"
            )


def _check_guide(trace: poutine.Trace, latents: dict[str, Site], plate: DataPlate) -> None:
    proposed = dict(sample_sites(trace))
    for name in latents:
        if name not in proposed:
            raise UndefinedError(
                f"guide has no site {name!r}; the model samples {list(latents)}: add one to the "
                "guide, or give start='prior'"
            )
    for name, site in proposed.items():
        if name not in latents:
            raise UndefinedError(
                f"guide has a site {name!r} that the model has not (an auxiliary one), so that "
                f"log q(z | x) is an unknown integral over it: give start='prior', or {_INSTEAD}"
            )
        if plate.frame(site) is None:
            raise UndefinedError(
                f"site {name!r} of the guide is outside the data plate: move it inside, or give "
                "start='prior'"
            )
        if _is_delta(site):
            raise UndefinedError(
                f"site {name!r} of the guide is a point mass (Delta), which has no density: "
                "give start='prior'"
            )
        try:
            # At other values than its own draws, which a flow remembers.
            site["fn"].log_prob(site["value"].clone())
        except (NotImplementedError, KeyError) as error:
            raise UndefinedError(
                f"site {name!r} of the guide has no density at values that are not its own draws "
                f"(a flow without an inverse): give start='prior', or {_INSTEAD}"
            ) from error


def _is_delta(site: Site) -> bool:
    fn = site["fn"]
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return isinstance(fn, dist.Delta)
