"""Mutual information of x and z, and the divergence of q(z), from one table of densities."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from pvae._validation import at_least
from pvae.evaluation.context import EvaluationContext, context_of, parts
from pvae.evaluation.estimate import Estimate, UndefinedQuantityError
from pvae.pair.distributions import same_density
from pvae.pair.enumeration import log_probs_summed_out
from pvae.pair.plate import from_rows
from pvae.pair.tiling import tiled
from pvae.pair.traces import Site, guide_trace_of, latent_sites, paired_traces

__all__ = ["Information", "information"]

# Largest number of elements of a table of densities, or of their parameters.
_TABLE = 2**22


@dataclass(frozen=True)
class Information:
    """The parts of E_x KL(q(z | x) || p(z)) over all latent sites jointly, in nats per datum.

    Attributes:
        mutual_information: I_q(x; z) = E KL(q(z | x) || q(z)), at most `ceiling`.
        aggregated: KL(q(z) || p(z)) of the aggregated posterior q(z) = mean_n q(z | x_n).
        kl: E KL(q(z | x) || p(z)), the sum of both.
        num_data: number N of data in the aggregated posterior.

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
        >>> found = pvae.evaluation.information(model, guide, torch.randn(20))
        >>> round(found.ceiling, 2)  # log 20 nats
        3.0
    """

    mutual_information: Estimate
    aggregated: Estimate
    kl: Estimate
    num_data: int

    @property
    def ceiling(self) -> float:
        """log N in nats, the largest mutual information that N data can show."""
        return math.log(self.num_data)

    @property
    def sentence(self) -> str:
        """The mutual information as a bound, with a hint if there are too few data."""
        mean = self.mutual_information.mean
        said = f"I(x; z) >= {mean:.3g} nats"
        if mean > self.ceiling - 1:
            said += (
                f"; with {self.num_data} data the estimate cannot exceed {self.ceiling:.3g}, so "
                "evaluate on more"
            )
        return said

    def as_json(self) -> dict[str, object]:
        """The numbers for JSON."""
        return {
            "mutual_information": self.mutual_information.as_json(),
            "aggregated": self.aggregated.as_json(),
            "kl": self.kl.as_json(),
            "num_data": self.num_data,
            "ceiling": self.ceiling,
        }


def information(
    model: Callable[..., object],
    guide: Callable[..., object],
    data: object,
    *,
    num_data: int = 1000,
    num_particles: int = 4,
    seed: int = 0,
) -> Information:
    """Split E_x KL(q(z | x) || p(z)) into mutual information and the aggregated divergence.

    E KL(q(z | x) || p(z)) = I_q(x; z) + KL(q(z) || p(z)),  log q(z) = log mean_n q(z | x_n)

    For the empirical distribution of the N data, both parts are unbiased. For the distribution that
    they are a sample of, the mutual information is a lower bound in expectation, at most log N, and
    the aggregated divergence is too high by the same amount; the bias falls as 1 / N once N is far
    above exp(I). z stands for all latent sites jointly; in a hierarchy the guide runs for each draw
    and each datum with the latent sites at the draw.

    References:
        ELBO Surgery: Yet Another Way to Carve Up the Variational Evidence Lower Bound
        (M. D. Hoffman, M. J. Johnson, 2016), http://approximateinference.org/accepted/HoffmanJohnson2016.pdf

    Args:
        model: p(x, z), called with one batch.
        guide: q(z | x), called with the same arguments.
        data: a tensor of shape (N, ...), a tuple of tensors, or a split of a data set.
        num_data: largest number of data, at least 2, drawn at random. The cost grows quadratically.
        num_particles: draws from the guide per datum, at least 1.
        seed: seeds all draws.

    Returns:
        An `Information`, with the estimates `.mutual_information`, `.aggregated` and `.kl`.

    Raises:
        ValueError: if a number is out of range, there is one datum alone, or
            (`UndefinedQuantityError`) there is no vectorized data plate with a latent site, or the
            guide has global latent sites, point masses or sites that the model does not have, or
            draws random numbers outside its sites, or p(z) is an integral over sites that the guide
            does not have.

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
        >>> _ = torch.manual_seed(0)
        >>> found = pvae.evaluation.information(model, guide, torch.randn(500) * 2**0.5)
        >>> abs(found.mutual_information.mean - 0.5 * torch.tensor(2.0).log()) < 0.1  # nats
        tensor(True)
    """
    at_least(1, num_particles=num_particles)
    runs = []
    context = context_of(model, guide, data)
    context.require_latent_sites()
    context.require_density(by_site=True)
    _require_no_noise(guide, context)
    with context.evaluating(seed):
        size = min(num_data, len(context.source))
        if size < 2:
            raise ValueError(
                f"num_data is {num_data} and the data have {len(context.source)} rows: the mutual "
                "information needs at least 2"
            )
        rows = torch.randperm(len(context.source))[:size].sort().values.to(context.source.device)
        for _ in range(num_particles):
            values, log_prior = _draws(model, guide, context, rows)
            own, aggregated = _densities(guide, context, rows, values)
            runs.append((own - aggregated, aggregated - log_prior))
    mutual, divergence = (torch.stack(part).double().cpu() for part in zip(*runs, strict=True))
    return Information(
        _estimate(mutual), _estimate(divergence), _estimate(mutual + divergence), size
    )


def _require_no_noise(guide: Callable[..., object], context: EvaluationContext) -> None:
    """Require that q(z | x) does not depend on random numbers outside the latent sites."""
    noise = list(context.density.noise)
    if not noise:
        with context.evaluating(0):
            batch = context.spread(4)
            drawn = guide_trace_of(guide, *batch)
            again = poutine.trace(poutine.replay(guide, trace=drawn)).get_trace(*batch)
            sites = zip(*(latent_sites(t).values() for t in (drawn, again)), strict=True)
            try:
                same = all(same_density(once, twice) for once, twice in sites)
            except (LookupError, NotImplementedError):
                return  # a flow without an inverse, of which more is said later
        if same:
            return
    what = f"auxiliary sites {noise}" if noise else "random numbers outside its sites (dropout?)"
    raise UndefinedQuantityError(
        f"the guide draws {what}, so the density q(z | x) without them is an unknown integral, and "
        "with it the mutual information"
    )


def _estimate(values: Tensor) -> Estimate:
    """The mean of values (particles, N), each of one draw."""
    num_particles, size = values.shape
    per_datum = values.mean(0)
    # Each datum is also part of q(z), which adds nothing to first order: the ratio of q(z | x_n) to
    # q(z) has the mean 1 under q(z).
    mean, std_error = Estimate.over_data(per_datum)
    mc_error = math.nan
    if num_particles > 1:
        mc_error = math.sqrt((values.var(0) / num_particles).sum().item()) / size
    return Estimate(mean, std_error, mc_error, num_particles, per_datum.float())


def _draws(
    model: Callable[..., object],
    guide: Callable[..., object],
    context: EvaluationContext,
    rows: Tensor,
) -> tuple[dict[str, Tensor], Tensor]:
    """One draw per datum by site, (N, ...), and its log p(z), (N,)."""
    values: dict[str, list[Tensor]] = {}
    log_prior = []
    for part in parts(len(rows), context.rows_per_run()):
        batch = context.source.arguments(rows[part])
        summed_out = context.prior_summed_out
        if summed_out is None:
            model_trace, guide_trace = paired_traces(model, guide, batch)
            terms = context.log_probs(model_trace)
        else:
            model_trace, guide_trace = context.summed_out_traces(batch, summed_out)
            plate, latents = context.require_plate(), latent_sites(model_trace)
            names = summed_out.names
            terms = log_probs_summed_out(model_trace, plate, names, sites=latents).local
        log_prior.append(torch.stack(tuple(terms.values())).sum(0))
        for name, value in context.values(guide_trace).items():
            values.setdefault(name, []).append(value)
    return {name: torch.cat(found) for name, found in values.items()}, torch.cat(log_prior)


def _densities(
    guide: Callable[..., object],
    context: EvaluationContext,
    rows: Tensor,
    values: dict[str, Tensor],
) -> tuple[Tensor, Tensor]:
    """log q(z_n | x_n) and log q(z_n) of one draw per datum, each (N,)."""
    size = len(rows)
    own, aggregated = [], []
    for part in parts(size, _TABLE // size):
        here = {name: value[part] for name, value in values.items()}
        try:
            table = _table(guide, context, rows, here)
        except (LookupError, NotImplementedError) as error:
            raise UndefinedQuantityError(
                f"the density of sites {context.latent_sites} is known at the guide's own draws "
                "alone, as that of a flow without an inverse, and the mutual information needs it "
                "at the draws of other data"
            ) from error
        own.append(table[:, part].diagonal())
        aggregated.append(table.logsumexp(1) - math.log(size))
    return torch.cat(own), torch.cat(aggregated)


def _table(
    guide: Callable[..., object],
    context: EvaluationContext,
    rows: Tensor,
    values: dict[str, Tensor],
) -> Tensor:
    """log q(z_i | x_n) of several draws under all data, (draws, N)."""
    draws = len(next(iter(values.values())))
    columns = []
    for part in parts(len(rows), context.rows_per_run()):
        batch = context.source.arguments(rows[part])
        width = len(batch[0])
        latents = latent_sites(poutine.trace(guide).get_trace(*batch))
        fn = latents[context.latent_sites[0]]["fn"]
        if len(latents) == 1 and _broadcasts(fn, width):
            value = values[context.latent_sites[0]]
            few = _TABLE // max(1, width * value[0].numel())
            blocks = [fn.log_prob(value[some][:, None]) for some in parts(draws, few)]
        else:
            blocks = [
                _run(guide, context, batch, latents, {name: v[some] for name, v in values.items()})
                for some in parts(draws, context.rows_per_run() // width)
            ]
        columns.append(torch.cat(blocks))
    return torch.cat(columns, 1)


def _run(
    guide: Callable[..., object],
    context: EvaluationContext,
    batch: tuple[Tensor, ...],
    latents: dict[str, Site],
    values: dict[str, Tensor],
) -> Tensor:
    """log q(z_i | x_n) by the guide itself, with its latent sites at the draws, (draws, rows)."""
    draws, width = len(next(iter(values.values()))), len(batch[0])
    at_draws = {
        name: from_rows(
            value.repeat_interleave(width, 0),
            context.frame(latents[name]),
            len(latents[name]["fn"].event_shape),
        )
        for name, value in values.items()
    }
    conditioned = poutine.condition(guide, at_draws)
    trace = poutine.trace(conditioned).get_trace(*tiled(batch, draws))
    log_probs = torch.stack(tuple(context.log_probs(trace).values()))
    return log_probs.sum(0).reshape(draws, width)


def _broadcasts(fn: Distribution, rows: int) -> bool:
    """Whether log_prob takes (draws, 1, ...) to (draws, rows), without running the guide again."""
    if tuple(fn.batch_shape) != (rows,):
        return False
    while isinstance(fn, Independent):
        fn = fn.base_dist
    return isinstance(fn, Normal | MultivariateNormal)
