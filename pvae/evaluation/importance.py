"""The log-likelihood by importance sampling with the guide as proposal."""

import math
from collections.abc import Callable

import torch
from pyro import poutine
from pyro.distributions import OneHotCategorical, constraints
from torch import Tensor

from pvae.evaluation.context import EvaluationContext, context_of
from pvae.evaluation.estimate import Estimate, LogLikelihood, UndefinedQuantityError, of_weights
from pvae.evaluation.log_weights import blocks
from pvae.evaluation.pareto import Tails
from pvae.pair.distributions import base_distribution, elementwise_support, value_masks
from pvae.pair.particles import total
from pvae.pair.traces import Site, observed_sites

__all__ = ["log_likelihood"]


def log_likelihood(
    model: Callable[..., object],
    guide: Callable[..., object],
    data: object,
    num_particles: int = 5000,
    *,
    missing: Tensor | str | None = None,
    seed: int = 0,
    max_bytes: int | None = None,
    progress: bool = False,
) -> LogLikelihood:
    """Estimate log p(x) as log mean_k p(x, z_k) / q(z_k | x), in nats per datum.

    The estimate is a lower bound in expectation, and tight as particles increase; with one particle
    it is the evidence lower bound. Sites of the model alone are summed out if they are marked for
    enumeration, and drawn from their prior otherwise.

    References:
        Importance Weighted Autoencoders (Y. Burda, R. Grosse, R. Salakhutdinov, 2015),
        https://arxiv.org/abs/1509.00519
        Pareto Smoothed Importance Sampling (A. Vehtari, D. Simpson, A. Gelman, Y. Yao, J. Gabry,
        2015), https://arxiv.org/abs/1507.02646

    Args:
        model: p(x, z), called with one batch.
        guide: q(z | x), called with the same arguments.
        data: a tensor of shape (N, ...), a tuple of tensors, or a split of a data set.
        num_particles: draws K from the guide per datum.
        missing: what is missing of x, None, "nan" or a bool tensor, as in `fit`; the number is then
            about the seen cells.
        seed: seeds the draws.
        max_bytes: bytes that the tensors of one call of the pair may take (default: what is fast on
            the device).
        progress: show a progress bar.

    Returns:
        A `LogLikelihood`: `.mean`, `.std_error`, `.mc_error`, `.per_datum` (N,), `.ess` (N,),
        `.khat` (N,), `.warning`, a sentence about unreliable data or "", and `.bits_per_dim` for
        discretized images.

    Raises:
        UndefinedQuantityError: if the model has a global latent site, so that its evidence is not a
            mean over data; if the guide has point masses, or computes sites from auxiliary ones of
            other dimensions; or if a plate selects some of a datum's elements.

    Example:
        >>> import pvae, pyro, torch
        >>> import pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):  # wider than the posterior
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 1.0))
        >>> estimate = pvae.log_likelihood(model, guide, torch.zeros(3), num_particles=1000)
        >>> exact = dist.Normal(0.0, 2.0**0.5).log_prob(torch.tensor(0.0))  # nats per datum
        >>> abs(estimate.mean - exact) < 5 * estimate.mc_error
        tensor(True)
    """
    context = context_of(model, guide, data, missing=missing)
    if context.global_sites:
        raise _not_a_mean(context.global_sites)
    context.require_density()
    context.require_whole_data()
    size, device = len(context.source), context.source.device
    # Where the weights are: on a GPU, moving all of them would take longer than the programs.
    first = torch.full((size,), -math.inf, dtype=torch.float64, device=device)
    second = first.clone()
    tails = Tails(size, num_particles, device)
    label = "log-likelihood" if progress else ""
    for here, terms in blocks(
        context, num_particles, seed=seed, max_bytes=max_bytes, progress=label
    ):
        if terms.global_:
            raise _not_a_mean(sorted(terms.global_))
        weights = total(terms.local).double()
        tails.add(here.start, weights)
        first[here] = torch.logaddexp(first[here], weights.logsumexp(0))
        second[here] = torch.logaddexp(second[here], (2 * weights).logsumexp(0))
    per_datum, ess, mc_error = of_weights(first.cpu(), second.cpu(), num_particles)
    mean, std_error = Estimate.over_data(per_datum)
    return LogLikelihood(
        mean,
        std_error,
        mc_error,
        num_particles,
        per_datum.float(),
        ess.float(),
        tails.k(max_bytes).float().cpu(),
        _discrete_elements(context),
    )


def _not_a_mean(sites: list[str]) -> UndefinedQuantityError:
    return UndefinedQuantityError(
        f"sites {sites} are global (outside the data plate), so log p(x) is not a mean over data; "
        "use pvae.log_predictive, or the bound of pvae.elbo"
    )


def _discrete_elements(context: EvaluationContext) -> float | None:
    """Mean number of elements of a datum if all observed sites are discrete but not binary."""
    with context.evaluating(0):
        sites = _observed(context, context.source.first(1))
        supports = [elementwise_support(site["fn"]) for site in sites]
        known = [s is not None and s.is_discrete and s is not constraints.boolean for s in supports]
        if not known or not all(known):
            return None
        if not any(value_masks(site) for site in sites):
            return sum(_elements(site) for site in sites)
        counts = 0.0
        for batch in context.source.batches(1024):
            counts += sum(_elements(site) for site in _observed(context, batch))
    return counts / len(context.source)


def _observed(context: EvaluationContext, batch: tuple[Tensor, ...]) -> list[Site]:
    return list(observed_sites(poutine.trace(context.model).get_trace(*batch)).values())


def _elements(site: Site) -> float:
    """The number of observed elements of a site; a one-hot vector is one of them."""
    value = site["value"]
    counted = torch.ones(value.shape, device=value.device)
    for mask in value_masks(site):
        counted = counted * mask
    if isinstance(base_distribution(site["fn"]), OneHotCategorical):
        counted = counted[..., 0]
    return counted.sum().item()
