"""Bidirectional Monte Carlo: log p(x) of simulated data between two bounds."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pvae.evaluation.annealed_importance import both_ways
from pvae.evaluation.estimate import AnnealedLogLikelihood, Estimate, UndefinedQuantityError
from pvae.pair.pair import rows_on_device
from pvae.pair.preserve import evaluation_mode, seeded
from pvae.pair.simulation import arguments_observed, simulate
from pvae.pair.traces import sample_sites

__all__ = ["Sandwich", "bdmc"]


@dataclass(frozen=True)
class Sandwich:
    """Bounds on log p(x) of simulated data, in nats per datum.

    Attributes:
        lower: in expectation below log p(x), by forward chains.
        upper: in expectation above log p(x), by reverse chains.
        gap: upper minus lower, datum by datum. Its `mc_error` assumes independent chains; its
            `std_error` covers all sources, since each datum has its own chains and exact draw.
        data: the arguments of the programs with simulated data in them, each (N, ...), on the CPU.

    Example:
        >>> import pvae, pyro, torch
        >>> import pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):  # the posterior itself
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))
        >>> sandwich = pvae.bdmc(model, guide, torch.zeros(50), 4, 20)
        >>> sandwich.lower.per_datum.shape, sandwich.data[0].shape
        (torch.Size([50]), torch.Size([50]))
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
    num_leapfrog_steps: int = 10,
    seed: int = 0,
    max_bytes: int | None = None,
    progress: bool = False,
) -> Sandwich:
    """Bound log p(x) from both sides on data that the model itself draws, in nats per datum.

    The bounds hold for simulated data, not for the user's; the gap shows how far `pvae.ais` with
    the same options may be off on data like the model's own.

    One (z, x) is drawn from p(x, z) per row, so that z is an exact draw of p(z | x). The lower
    bound is that of `pvae.ais`. The upper bound is -log mean_k w_k over reverse chains, which start
    from z and run from p(x, z) to f_0: each weight has the expectation 1 / p(x), and so has their
    mean, so that minus its logarithm is above log p(x) in expectation. `upper.mc_error` assumes
    independent chains, and is too small if they remember their common start.

    References:
        Sandwiching the marginal likelihood using bidirectional Monte Carlo (R. Grosse,
        Z. Ghahramani, R. P. Adams, 2015), https://arxiv.org/abs/1511.02543
        On the Quantitative Analysis of Decoder-Based Generative Models (Y. Wu, Y. Burda,
        R. Salakhutdinov, R. Grosse, 2017), https://arxiv.org/abs/1611.04273

    Args:
        model: p(x, z), as in `pvae.ais`; each observed site observes an argument unchanged.
        guide: q(z | x), as in `pvae.ais`.
        like: data with the number of rows, shape and type of the simulated data; its values matter
            only for arguments that the model conditions on.
        num_particles: chains per datum, in each direction.
        num_temperatures: steps from f_0 to p(x, z).
        start: f_0: "guide" or "prior".
        num_leapfrog_steps: leapfrog steps of one transition.
        seed: seeds the simulated data, the pilot run and the chains.
        max_bytes: bytes that the tensors of one gradient may take.
        progress: show a progress bar.

    Returns:
        A `Sandwich`: `.lower`, `.upper`, `.gap`, `.data`.

    Raises:
        UndefinedQuantityError: as for `pvae.ais`; also if the model has a `pyro.factor`, which
            cannot be drawn from, or observes a value that is none of the arguments.

    Example:
        >>> import pvae, pyro, torch
        >>> import pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):  # the posterior itself
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))
        >>> sandwich = pvae.bdmc(model, guide, torch.zeros(50), 4, 20)
        >>> abs(sandwich.gap.mean) < 1e-3  # nats per datum; the guide is the posterior
        True
    """
    simulated, draws = _simulate(model, like, seed)
    lower, upper = both_ways(
        model,
        guide,
        simulated,
        num_particles,
        num_temperatures,
        start=start,
        num_leapfrog_steps=num_leapfrog_steps,
        seed=seed + 1,
        max_bytes=max_bytes,
        progress=progress,
        exact=draws,
    )
    assert upper is not None
    per_datum = upper.per_datum - lower.per_datum
    mean, std_error = Estimate.over_data(per_datum)
    mc_error = (lower.mc_error**2 + upper.mc_error**2) ** 0.5
    gap = Estimate(mean, std_error, mc_error, num_particles, per_datum)
    return Sandwich(lower, upper, gap, tuple(part.cpu() for part in simulated))


def _simulate(
    model: Callable[..., object], like: object, seed: int
) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Simulated arguments of the programs, and the draws of every site that generated them."""
    source = rows_on_device(like, model)
    batch = source.first(len(source))
    with seeded(seed), torch.no_grad(), evaluation_mode(model):
        try:
            trace, simulated = simulate(model, batch, arguments_observed(model, batch))
        except ValueError as error:
            raise UndefinedQuantityError(f"{error}; or estimate log p(x) with pvae.ais") from error
    return simulated, {name: site["value"] for name, site in sample_sites(trace)}
