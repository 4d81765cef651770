"""The log-likelihood by importance sampling with the guide as proposal."""

import math
from collections.abc import Callable

import torch
from pyro import poutine
from pyro.distributions import constraints

from pvae.data import rows
from pvae.evaluation.blocks import blocks
from pvae.evaluation.estimate import Estimate, LogLikelihood, UndefinedError, of_weights
from pvae.evaluation.pareto import Tails
from pvae.pair.distributions import elementwise_support
from pvae.pair.modes import evaluating
from pvae.pair.preserve import preserved
from pvae.pair.sources import source_for
from pvae.pair.traces import observed_sites

__all__ = ["log_likelihood"]


def log_likelihood(
    model: Callable[..., object],
    guide: Callable[..., object],
    data: object,
    num_particles: int = 5000,
    *,
    seed: int = 0,
    budget: int | None = None,
    progress: bool = False,
) -> LogLikelihood:
    """Estimate log p(x) as log mean_k p(x, z_k) / q(z_k | x), in nats per datum.

    The estimate is a lower bound in expectation, and tight as the number of particles grows; with
    one particle it is the evidence lower bound.

    References:
        Importance Weighted Autoencoders (Y. Burda, R. Grosse, R. Salakhutdinov, 2015),
        https://arxiv.org/abs/1509.00519
        Pareto Smoothed Importance Sampling (A. Vehtari, D. Simpson, A. Gelman, Y. Yao, J. Gabry,
        2015), https://arxiv.org/abs/1507.02646

    Args:
        model: p(x, z), called with one batch.
        guide: q(z | x), called with the same.
        data: a tensor of shape (N, ...), a tuple of such, or a split of a data set.
        num_particles: draws K from the guide per datum.
        seed: seeds the draws.
        budget: bytes that the tensors of one call of the pair may take.
        progress: show a progress bar.

    Returns:
        A `LogLikelihood`: `.mean`, `.std_error`, `.mc_error`, `.per_datum` (N,), `.ess` (N,),
        `.khat` (N,) and `.warning`, a sentence where some data are not to be trusted;
        `.bits_per_dim` for discretized images.

    Raises:
        UndefinedError: the model has a global latent site: its evidence does not split by datum.
    """
    size = len(rows(data))
    first = torch.full((size,), -math.inf, dtype=torch.float64)
    second = first.clone()
    tails = Tails(size, num_particles)
    label = "log-likelihood" if progress else ""
    for block in blocks(
        model, guide, data, num_particles, seed=seed, budget=budget, progress=label
    ):
        if block.shared:
            raise UndefinedError(
                f"sites {sorted(block.shared)} are outside the data plate: all data share them, so "
                "log p(x) is no mean over data; estimate the bound with pvae.elbo instead"
            )
        weights = block.log_weights.double().cpu()
        here = slice(block.start, block.start + weights.shape[1])
        tails.add(block.start, weights)
        first[here] = torch.logaddexp(first[here], weights.logsumexp(0))
        second[here] = torch.logaddexp(second[here], (2 * weights).logsumexp(0))
    per_datum, ess, mc_error = of_weights(first, second, num_particles)
    mean, std_error = Estimate.over_data(per_datum)
    return LogLikelihood(
        mean,
        std_error,
        mc_error,
        num_particles,
        per_datum.float(),
        ess.float(),
        tails.k(budget).float(),
        _levelled_elements(model, data),
    )


def _levelled_elements(model: Callable[..., object], data: object) -> int | None:
    """How many elements of a datum take one of several levels, if all that is observed does."""
    source = source_for(data, model)
    with preserved(), torch.no_grad(), evaluating(model):
        trace = poutine.trace(model).get_trace(*source.first(1))
    sites = observed_sites(trace).values()
    supports = [elementwise_support(site["fn"]) for site in sites]
    levelled = [s is not None and s.is_discrete and s is not constraints.boolean for s in supports]
    return sum(site["value"].numel() for site in sites) if levelled and all(levelled) else None
