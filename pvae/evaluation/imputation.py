"""Draws of missing values given the seen ones, by sampling-importance-resampling."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from pyro import poutine
from torch import Tensor

from pvae._validation import at_least
from pvae.evaluation.context import EvaluationContext, tiled_terms
from pvae.evaluation.estimate import UndefinedQuantityError
from pvae.pair.interventions import unobserved
from pvae.pair.log_prob import log_weight_terms
from pvae.pair.particles import total
from pvae.pair.plate import from_rows, to_rows
from pvae.pair.tiling import tiled
from pvae.pair.traces import Site, latent_sites, observed_sites, paired_traces, sample_sites

__all__ = ["Imputation", "impute"]


@dataclass(frozen=True, eq=False)
class Imputation:
    """Draws of the missing values of data, beside the seen ones.

    Attributes:
        draws: shape (num_samples, rows, ...), of which seen cells are those of the data.
        missing: bool of shape (rows, ...), True where values were missing.
        ess: effective sample size of each datum's particles, shape (rows,), between 1 and
            num_particles; draws of a datum with few are nearly copies of each other's z.

    Example:
        >>> draws = torch.tensor([[[1.0, 2.0]], [[1.0, 4.0]]])
        >>> Imputation(draws, torch.tensor([[False, True]]), torch.tensor([9.0])).mean
        tensor([[1., 3.]])
    """

    draws: Tensor
    missing: Tensor
    ess: Tensor

    @property
    def mean(self) -> Tensor:
        """The mean of the draws, shape (rows, ...): for numbers."""
        return self.draws.mean(0)

    @property
    def median(self) -> Tensor:
        """The median of the draws, shape (rows, ...): for numbers of which a few may be huge.

        Draws of a log-normal column, "pos", are: their mean is ruled by the largest of them.
        """
        return self.draws.median(0).values

    @property
    def mode(self) -> Tensor:
        """The most frequent draw of each cell, shape (rows, ...): for classes."""
        return self.draws.mode(0).values

    def by_column(self, columns: Sequence[Mapping[str, object]]) -> Tensor:
        """One value for each cell of a table, shape (rows, columns).

        Args:
            columns: of each its "kind", as the likelihood `mixed` takes them: of "real" and "count"
                the mean of the draws is taken, of "pos" the median, of others the mode.
        """
        kinds = [column["kind"] for column in columns]
        of_class = torch.tensor([kind in ("cat", "ordinal") for kind in kinds])
        positive = torch.tensor([kind == "pos" for kind in kinds])
        numbers = torch.where(positive.to(self.draws.device), self.median, self.mean)
        return torch.where(of_class.to(self.draws.device), self.mode, numbers)


def impute(
    model: Callable[..., object],
    guide: Callable[..., object],
    x: object,
    missing: Tensor | str = "nan",
    *,
    num_samples: int = 10,
    num_particles: int = 100,
    seed: int = 0,
    max_bytes: int | None = None,
) -> Imputation:
    """Draw what is missing of x from p(x_missing | x_seen), by sampling-importance-resampling.

    Particles z_k come from q(z | x_seen) and are resampled with weights p(x_seen, z_k) / q(z_k);
    from each that is chosen, the missing cells are drawn from p(x | z_k).

    References:
        MIWAE: Deep Generative Modelling and Imputation of Incomplete Data Sets (Mattei and
        Frellsen, 2019), https://arxiv.org/abs/1812.02633.

    Args:
        model: p(x, z), called with one batch; of one observed site that has the shape of x.
        guide: q(z | x), called with the same arguments.
        x: a tensor of shape (N, ...), a tuple of tensors whose first has holes, or a split.
        missing: "nan", or a bool tensor of the shape of x, True where a value is missing; of data
            that are `Rows`, which know it, it is not used.
        num_samples: number of draws, at least 1.
        num_particles: particles K per datum, at least 1; the draws are exact as K grows.
        seed: seeds the draws.
        max_bytes: bytes that the tensors of one call of the pair may take (default: what is fast on
            the device).

    Returns:
        An `Imputation`: `.draws`, (num_samples, N, ...), `.mean`, `.median`, `.mode`, `.ess`, (N,).

    Raises:
        UndefinedQuantityError: if no observed site has the shape of x, q(z | x) has no density, or
            there are global sites.

    Example:
        >>> import pvae, pyro
        >>> import pyro.distributions as dist
        >>> def model(x):  # two measurements of z
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
        ...         pyro.sample("x", dist.Normal(z[:, None].expand(-1, 2), 0.1).to_event(1), obs=x)
        >>> def guide(x, missing):  # the mean of those that are seen
        ...     seen = (~missing).float()
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal((x * seen).sum(1) / seen.sum(1), 0.2))
        >>> found = pvae.impute(model, guide, torch.tensor([[1.0, float("nan")]]), num_samples=1000)
        >>> found.mean.round(decimals=1)
        tensor([[1., 1.]])
    """
    at_least(1, num_samples=num_samples, num_particles=num_particles)
    context = EvaluationContext(model, guide, x, missing=missing)
    holes = context.source.missing
    if holes is None:
        raise ValueError("nothing is missing: give data with NaN, or missing=")
    context.require_latent_sites()
    context.require_density()
    context.require_whole_data()
    limit = context.rows_per_call(lambda batch, n: tiled_terms(context, batch, n), max_bytes)
    rows = max(1, limit // max(num_particles, num_samples))
    draws, ess = [], []
    with context.evaluating(seed):
        for batch in context.source.batches(rows):
            weights, values = _particles(context, batch, num_particles)
            ess.append(1 / weights.square().sum(0))
            chosen = torch.multinomial(weights.mT, num_samples, replacement=True).mT
            index = chosen * len(batch[0]) + torch.arange(len(batch[0]), device=chosen.device)
            draws.append(_drawn(context, batch, values, index.flatten(), num_samples))
    return Imputation(torch.cat(draws, 1), holes, torch.cat(ess))


def _particles(
    context: EvaluationContext, batch: tuple[Tensor, ...], count: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """Normalized weights (particles, rows), and the latent values, (particles * rows, ...)."""
    assert context.guide is not None
    traces = paired_traces(context.model, context.guide, tiled(batch, count))
    for name in context.density.noise:
        traces[1].remove_node(name)
    terms = log_weight_terms(*traces, context.plate)
    weights = total(terms.local).reshape(count, -1).softmax(0)
    sites = latent_sites(traces[0])
    return weights, {name: _rows_first(context, site) for name, site in sites.items()}


def _drawn(
    context: EvaluationContext,
    batch: tuple[Tensor, ...],
    values: dict[str, Tensor],
    index: Tensor,
    num_samples: int,
) -> Tensor:
    """Draws of x with its holes filled, (num_samples, rows, ...), at chosen latent values."""
    x, more = batch[0], tiled(batch, num_samples)
    sites = latent_sites(context.model_trace)
    moved = {
        name: from_rows(
            value[index], context.frame(sites[name]), len(sites[name]["fn"].event_shape)
        )
        for name, value in values.items()
    }
    program = poutine.condition(unobserved(context.model), moved)
    trace = dict(sample_sites(poutine.trace(program).get_trace(*more)))
    drawn = trace[_site_of(context, x)]["value"].to(x.dtype).reshape(num_samples, *x.shape)
    return torch.where(torch.isnan(x), drawn, x)


def _site_of(context: EvaluationContext, x: Tensor) -> str:
    """The observed site that has the shape of x, or its number of elements."""
    found = observed_sites(context.model_trace)
    for name, site in found.items():
        if site["value"][:1].numel() == x[:1].numel():
            return name
    raise UndefinedQuantityError(
        f"the model observes sites {list(found)}, and none has the shape of x, "
        f"{tuple(x.shape[1:])}, so its missing cells have no distribution"
    )


def _rows_first(context: EvaluationContext, site: Site) -> Tensor:
    value: Tensor = to_rows(site["value"], context.frame(site), len(site["fn"].event_shape))
    return value
