"""The log-likelihood by annealed importance sampling."""

from collections.abc import Callable, Mapping
from functools import partial
from itertools import groupby
from operator import itemgetter

from torch import Tensor
from tqdm import tqdm

from pvae._validation import at_least
from pvae.evaluation.annealing import Chains, anneal, gradients, temperatures, tune
from pvae.evaluation.chains import chain_context, start_guide
from pvae.evaluation.estimate import AnnealedLogLikelihood, Estimate, of_weights
from pvae.evaluation.log_weights import plan
from pvae.pair.densities import Densities

__all__ = ["ais", "both_ways"]

# Chains per datum of the pilot run, which chooses step sizes.
_PILOT_CHAINS = 4


def ais(
    model: Callable[..., object],
    guide: Callable[..., object],
    data: object,
    num_particles: int = 16,
    num_temperatures: int = 200,
    *,
    start: str = "guide",
    num_leapfrog_steps: int = 10,
    seed: int = 0,
    max_bytes: int | None = None,
    progress: bool = False,
) -> AnnealedLogLikelihood:
    """Estimate log p(x) as log mean_k w_k over annealed chains, in nats per datum.

    Each chain goes from a draw z_0 of the start density f_0, q(z | x) or p(z), along
    f_t = f_0^(1 - beta_t) p(x, z)^(beta_t), with one transition of Hamiltonian Monte Carlo at each
    inner temperature. Its weight is

    w = prod_t f_t(z_(t-1)) / f_(t-1)(z_(t-1)), whose expectation is p(x).

    The estimate is a lower bound in expectation, and tight as temperatures or particles increase;
    with one temperature it is importance sampling. Step sizes come from a pilot run with other
    random numbers and stay fixed, since adaptation during the chains would break the bound.
    Networks are in eval mode; scales are left out.

    References:
        Annealed Importance Sampling (R. M. Neal, 2001), https://arxiv.org/abs/physics/9803008
        On the Quantitative Analysis of Decoder-Based Generative Models (Y. Wu, Y. Burda,
        R. Salakhutdinov, R. Grosse, 2017), https://arxiv.org/abs/1611.04273

    Args:
        model: p(x, z), called with one batch; its latents must be continuous and inside the data
            plate.
        guide: q(z | x), called with the same arguments; unused if `start` is "prior".
        data: a tensor of shape (N, ...), a tuple of tensors, or a split of a data set.
        num_particles: chains K per datum.
        num_temperatures: steps T from f_0 to p(x, z), each of which costs num_leapfrog_steps + 1
            gradients.
        start: "guide" or "prior".
        num_leapfrog_steps: leapfrog steps of one transition.
        seed: seeds pilot run and chains.
        max_bytes: bytes that the tensors of one gradient may take.
        progress: show a progress bar.

    Returns:
        An `AnnealedLogLikelihood`: `.mean`, `.std_error`, `.mc_error`, `.per_datum` (N,), `.ess`
        (N,), `.acceptance` (N,).

    Raises:
        UndefinedQuantityError: if a site is discrete, global, a point mass, or in one program only,
            or there is no vectorized data plate. It is a `ValueError`.
        ValueError: if an option is out of range.

    Example:
        >>> import pyro, torch
        >>> import pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> estimate = ais(model, model, torch.zeros(3), 100, 20, start="prior")
        >>> exact = dist.Normal(0.0, 2.0**0.5).log_prob(torch.tensor(0.0))
        >>> abs(estimate.mean - exact.item()) < 0.05
        True
    """
    forward, _ = both_ways(
        model,
        guide,
        data,
        num_particles,
        num_temperatures,
        start=start,
        num_leapfrog_steps=num_leapfrog_steps,
        seed=seed,
        max_bytes=max_bytes,
        progress=progress,
    )
    return forward


def both_ways(
    model: Callable[..., object],
    guide: Callable[..., object],
    data: object,
    num_particles: int,
    num_temperatures: int,
    *,
    start: str,
    num_leapfrog_steps: int,
    seed: int,
    max_bytes: int | None,
    progress: bool,
    exact: Mapping[str, Tensor] | None = None,
) -> tuple[AnnealedLogLikelihood, AnnealedLogLikelihood | None]:
    """Run `ais`, and the same path in reverse if exact draws of the posterior are given.

    Args:
        model: this and all other arguments as in `ais`.
        exact: one draw of p(z | x) per row of the data, by site, in the layout of the model.
    """
    at_least(
        1,
        num_particles=num_particles,
        num_temperatures=num_temperatures,
        num_leapfrog_steps=num_leapfrog_steps,
        max_bytes=1 if max_bytes is None else max_bytes,
    )
    used = start_guide(guide, start)
    betas = temperatures(num_temperatures)
    with chain_context(model, used, data, seed) as (context, plate):
        source = context.source
        limit = context.rows_per_call(
            lambda batch, count: gradients(Densities(model, used, batch, count, plate)),
            max_bytes,
        )
        bar = tqdm(
            total=num_temperatures * num_particles * len(source) * (1 if exact is None else 2),
            desc="annealing",
            unit="steps",
            disable=None if progress else True,
            leave=False,
        )
        parts: list[list[Chains]] = []
        blocks = groupby(plan(len(source), num_particles, limit), key=itemgetter(0))
        for where, same in blocks:
            batch, first, sizes = source.arguments(where), where.start, [n for _, n in same]
            rows = len(batch[0])
            steps: list[Tensor] = []
            if num_temperatures > 1:
                pilot = Densities(model, used, batch, min(_PILOT_CHAINS, sizes[0]), plate)
                steps = tune(pilot, betas, rows, num_leapfrog_steps)[0][:-1]
            here: list[list[Chains]] = []
            for count in sizes:
                densities = Densities(model, used, batch, count, plate)
                of_chains = [step.repeat(count) for step in steps]
                tick = partial(bar.update, rows * count)
                found = [
                    anneal(densities, densities.draws, betas, of_chains, num_leapfrog_steps, tick)
                ]
                if exact is not None:
                    z, back = densities.at(exact, first), of_chains[::-1]
                    found.append(anneal(densities, z, betas[::-1], back, num_leapfrog_steps, tick))
                here.append([chains.by_datum(count, rows) for chains in found])
            parts.append([Chains.joined(way, 0) for way in zip(*here, strict=True)])
        bar.close()
    forward, *reverse = (Chains.joined(way, 1) for way in zip(*parts, strict=True))
    return _estimate(forward, 1.0), _estimate(reverse[0], -1.0) if reverse else None


def _estimate(chains: Chains, sign: float) -> AnnealedLogLikelihood:
    """Estimate log p(x) from weights of shape (particles, N) with mean p(x)^sign."""
    weights = chains.log_weights
    num_particles = len(weights)
    first, second = weights.logsumexp(0), (2 * weights).logsumexp(0)
    log_mean, ess, mc_error = of_weights(first, second, num_particles)
    per_datum = sign * log_mean
    mean, std_error = Estimate.over_data(per_datum)
    return AnnealedLogLikelihood(
        mean,
        std_error,
        mc_error,
        num_particles,
        per_datum.float(),
        ess.float(),
        chains.acceptance.mean(0).float(),
    )
