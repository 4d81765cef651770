"""The evidence lower bound, datum by datum and site by site."""

import math
from collections import defaultdict
from collections.abc import Callable

import torch
from torch import Tensor

from pvae._validation import at_least
from pvae.evaluation.context import context_of
from pvae.evaluation.estimate import Bound, Estimate
from pvae.evaluation.log_weights import blocks
from pvae.pair.pair import pair_of
from pvae.pair.particles import total

__all__ = ["elbo"]


def elbo(
    model: Callable[..., object],
    guide: Callable[..., object],
    data: object,
    num_particles: int = 1,
    *,
    data_size: int | None = None,
    missing: Tensor | str | None = None,
    seed: int = 0,
    max_bytes: int | None = None,
    progress: bool = False,
) -> Bound:
    """Estimate the evidence lower bound E_q[log p(x, z) - log q(z | x)], in nats per datum.

    Networks are in eval mode. Scales of handlers and of the data plate (annealing, minibatches) are
    left out: each datum counts once, and a global site 1 / `data_size` per datum. Sites of the
    model alone are summed out if they are marked for enumeration, and drawn from their prior
    otherwise. Auxiliary sites of the guide from which no site of the model is computed are noise,
    and left out. With point masses in the guide the number is about another quantity, `.quantity`.

    References:
        Auto-Encoding Variational Bayes (D. P. Kingma, M. Welling, 2013),
        https://arxiv.org/abs/1312.6114

    Args:
        model: p(x, z), called with one batch.
        guide: q(z | x), called with the same arguments.
        data: a tensor of shape (N, ...), a tuple of tensors, or a split of a data set.
        num_particles: draws from the guide per datum.
        data_size: number of data that the global sites were trained on (default: that of the
            training, if the programs are a `Fit`'s, and otherwise the number of data here).
        missing: what is missing of x, None, "nan" or a bool tensor, as in `fit`; the number is then
            about the seen cells.
        seed: seeds the draws.
        max_bytes: bytes that the tensors of one call of the pair may take (default: what is fast on
            the device).
        progress: show a progress bar.

    Returns:
        A `Bound`: `.mean`, `.std_error`, `.mc_error`, `.per_datum` (N,), `.sites`, `.note`.

    Raises:
        UndefinedQuantityError: if the guide computes sites of the model from auxiliary ones of
            other dimensions, so that q(z | x) is unknown.
        ValueError: if the data are empty, not finite or of different lengths.

    Example:
        >>> import pvae, pyro, torch
        >>> import pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):  # the posterior itself: the bound is tight
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))
        >>> bound = pvae.elbo(model, guide, torch.zeros(3))
        >>> exact = dist.Normal(0.0, 2.0**0.5).log_prob(torch.tensor(0.0))
        >>> abs(bound.mean - exact.item()) < 1e-5
        True
    """
    at_least(1, data_size=data_size)
    context = context_of(model, guide, data, missing=missing)
    points = context.density.points
    size = len(context.source)
    if data_size is None:
        pair = pair_of(model, guide)
        data_size = size if pair is None or pair.data_size is None else pair.data_size
    totals = torch.zeros(size, dtype=torch.float64)
    squares = torch.zeros(size, dtype=torch.float64)
    sums: dict[int, list[float]] = defaultdict(list)
    sites: dict[str, float] = defaultdict(float)
    global_: dict[str, list[float]] = defaultdict(list)
    label = "bound" if progress else ""
    apart = bool(context.global_sites or context.partial_plates)
    for here, terms in blocks(
        context, num_particles, seed=seed, max_bytes=max_bytes, progress=label, apart=apart
    ):
        weights = total(terms.local).double().cpu()
        totals[here] += weights.sum(0)
        squares[here] += weights.square().sum(0)
        for site, term in terms.local.items():
            sites[site] += term.double().sum().item() / (size * num_particles)
        for site, value in terms.global_.items():
            global_[site].append(value.item() / data_size)
        of_global = sum(values[-1] for values in global_.values())
        sums[here.start].append(weights.sum().item() + (here.stop - here.start) * of_global)
    per_datum = totals / num_particles
    mc_error = math.nan
    if num_particles > 1 and apart:  # the data of a block share some draws
        variance = sum(torch.tensor(found).double().var().item() for found in sums.values())
        mc_error = math.sqrt(variance / num_particles) / size
    elif num_particles > 1:
        variances = (squares - num_particles * per_datum.square()).clamp(min=0) / (
            num_particles - 1
        )
        mc_error = math.sqrt(variances.sum().item() / num_particles) / size
    for site, values in global_.items():
        sites[site] += sum(values) / len(values)
        per_datum = per_datum + sum(values) / len(values)
    mean, std_error = Estimate.over_data(per_datum)
    return Bound(
        mean,
        std_error,
        mc_error,
        num_particles,
        per_datum.float(),
        dict(sites),
        points,
        tuple(global_),
        data_size if global_ else None,
    )
