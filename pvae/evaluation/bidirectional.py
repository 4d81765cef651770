"""Bidirectional Monte Carlo: log p(x) of simulated data between two bounds."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from pyro import poutine
from pyro.poutine.util import site_is_factor
from torch import Tensor

from pvae.evaluation.annealed_importance import both_ways
from pvae.evaluation.estimate import AnnealedLogLikelihood, Estimate, UndefinedError
from pvae.pair.modes import evaluating
from pvae.pair.predictive import sample
from pvae.pair.preserve import seeded
from pvae.pair.sources import source_for
from pvae.pair.traces import observed_sites, sample_sites

__all__ = ["Sandwich", "bdmc"]


@dataclass(frozen=True)
class Sandwich:
    """Bounds on log p(x) of simulated data, in nats per datum.

    Attributes:
        lower: in expectation below log p(x), by forward chains.
        upper: in expectation above log p(x), by reverse chains.
        gap: upper less lower, datum by datum; its `mc_error` takes the chains for independent, and
            its `std_error` holds all there is, since each datum has chains and an exact draw of its
            own.
        data: the arguments of the programs with simulated data in them, each (N, ...), on the CPU.
    """

    lower: AnnealedLogLikelihood
    upper: AnnealedLogLikelihood
    gap: Estimate
    data: tuple[Tensor, ...] = field(repr=False)

    def as_json(self) -> dict[str, object]:
        """The numbers for JSON."""
        ends = {"lower": self.lower, "upper": self.upper, "gap": self.gap}
        return {name: estimate.as_json() for name, estimate in ends.items()}


def bdmc(
    model: Callable[..., object],
    guide: Callable[..., object],
    like: object,
    num_particles: int = 16,
    num_temperatures: int = 200,
    *,
    start: str = "guide",
    leapfrog: int = 10,
    seed: int = 0,
    budget: int | None = None,
    progress: bool = False,
) -> Sandwich:
    """Bound log p(x) from both sides on data that the model itself draws, in nats per datum.

    The values are those of simulated data, not of the user's; the gap says how far `pvae.ais` with
    the same options may be off where data are like the model's own.

    One (z, x) is drawn from p(x, z) per row, so that z is an exact draw of p(z | x). The lower
    bound is that of `pvae.ais`. The upper bound is -log mean_k w_k, where the reverse chains all
    start from z and run from p(x, z) to f_0: each weight has the expectation 1 / p(x), as each
    chain starts from the posterior, and so has their mean although they share a start; minus its
    logarithm is then above log p(x) in expectation. `upper.mc_error` takes the chains for
    independent, and is too small where they remember their start.

    References:
        Sandwiching the marginal likelihood using bidirectional Monte Carlo (R. Grosse,
        Z. Ghahramani, R. P. Adams, 2015), https://arxiv.org/abs/1511.02543
        On the Quantitative Analysis of Decoder-Based Generative Models (Y. Wu, Y. Burda,
        R. Salakhutdinov, R. Grosse, 2017), https://arxiv.org/abs/1611.04273

    Args:
        model: p(x, z), as in `pvae.ais`; each observed site observes an argument as it is.
        guide: q(z | x), as in `pvae.ais`.
        like: data whose number of rows, shape and type the simulated ones take; values count only
            where the model conditions on them.
        num_particles: chains per datum, in each direction.
        num_temperatures: steps from f_0 to p(x, z).
        start: f_0: "guide" or "prior".
        leapfrog: leapfrog steps of one transition.
        seed: seeds the simulated data, the pilot run and the chains.
        budget: bytes that the tensors of one gradient may take.
        progress: show a progress bar.

    Returns:
        A `Sandwich`: `.lower`, `.upper`, `.gap`, `.data`.

    Raises:
        ValueError: as `pvae.ais`; a `pyro.factor`, which nothing can be drawn from; an observed
            site whose value is none of the arguments.
    """
    simulated, draws = _simulated(model, like, seed)
    lower, upper = both_ways(
        model,
        guide,
        simulated,
        num_particles,
        num_temperatures,
        start=start,
        leapfrog=leapfrog,
        seed=seed + 1,
        budget=budget,
        progress=progress,
        exact=draws,
    )
    assert upper is not None
    per_datum = upper.per_datum - lower.per_datum
    mean, std_error = Estimate.over_data(per_datum)
    mc_error = (lower.mc_error**2 + upper.mc_error**2) ** 0.5
    gap = Estimate(mean, std_error, mc_error, num_particles, per_datum)
    return Sandwich(lower, upper, gap, tuple(part.cpu() for part in simulated))


def _simulated(
    model: Callable[..., object], like: object, seed: int
) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """The arguments with draws in the place of what is observed, and the draws of every site."""
    source = source_for(like, model)
    batch = source.arguments(slice(0, len(source)))
    with seeded(seed), torch.no_grad(), evaluating(model):
        draws = sample(model, batch)
        trace = poutine.trace(model).get_trace(*batch)
        for name, site in sample_sites(trace):
            if site_is_factor(cast(Any, site)):
                raise UndefinedError(
                    f"site {name!r} is a pyro.factor, which nothing can be drawn from: write it as "
                    "a distribution with obs=, or estimate log p(x) with pvae.ais"
                )
        arguments = list(batch)
        for name, site in observed_sites(trace).items():
            for index, part in enumerate(batch):
                if _same(site["value"], part):
                    arguments[index] = draws[name].reshape(part.shape).to(part.dtype)
        again = observed_sites(poutine.trace(model).get_trace(*arguments))
        for name, site in again.items():
            if not torch.equal(site["value"].to(draws[name].dtype), draws[name]):
                raise UndefinedError(
                    f"site {name!r} observes something computed from the arguments, so that no "
                    "argument can be made of a draw of it: pass what is observed as an argument, "
                    "or estimate log p(x) with pvae.ais"
                )
    return tuple(arguments), draws


def _same(value: Tensor, argument: Tensor) -> bool:
    """Whether a value is an argument, whatever its shape."""
    return value.data_ptr() == argument.data_ptr() and value.numel() == argument.numel()
