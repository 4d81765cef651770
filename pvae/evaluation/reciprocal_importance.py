"""Reciprocal importance sampling from posterior draws, the estimator of the first VAE paper."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal
from tqdm import tqdm

from pvae._validation import at_least
from pvae.evaluation.annealing import gradients, temperatures, tempered, tune
from pvae.evaluation.chains import chain_context, start_guide
from pvae.evaluation.estimate import Estimate
from pvae.pair.densities import Densities
from pvae.pair.hmc import Latents, evaluate, transition

__all__ = ["ChainLogLikelihood", "marginal_by_hmc", "split_rhat"]

# The paper: "as long as the dimensionality of the sampled space is low (less then 5 dimensions)".
_MOST = 5
# Temperatures from the start density to the posterior, on which step sizes are tuned.
_TEMPERATURES = 50
_MIXED = 1.1  # the largest R-hat of chains that have


@dataclass(frozen=True)
class ChainLogLikelihood(Estimate):
    """An estimate of log p(x) from draws of Markov chains: in expectation an upper bound.

    Attributes:
        rhat: per datum, shape (N,), the largest split R-hat of its latents and of log p(x, z): the
            spread of all half chains together over that within them. It is 1 if the chains have
            mixed, and infinite if one of them never moved.

    References:
        Inference from Iterative Simulation Using Multiple Sequences (A. Gelman, D. Rubin, 1992),
        https://doi.org/10.1214/ss/1177011136

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
        >>> estimate = pvae.evaluation.marginal_by_hmc(model, guide, torch.zeros(3), 8, 100)
        >>> bool((estimate.rhat < 1.1).all()), estimate.warning
        (True, '')
    """

    rhat: Tensor = field(repr=False)

    @property
    def unmixed(self) -> Tensor:
        """Indices of the data whose chains have not mixed."""
        return (~(self.rhat < _MIXED)).nonzero().flatten()

    @property
    def warning(self) -> str:
        """Which data are unreliable, and why; "" if none."""
        count, size = len(self.unmixed), len(self.rhat)
        if not count:
            return ""
        first = ", ".join(map(str, self.unmixed[:5].tolist()))
        return (
            f"the chains of {count:,} of {size:,} data have not mixed (R-hat above {_MIXED}; "
            f"indices {first}{', ...' if count > 5 else ''}), so their estimates may be too low by "
            "an unknown amount and their errors too small; use more samples and leapfrog steps, "
            "chains that start at the guide, or pvae.ais"
        )

    def as_json(self) -> dict[str, object]:
        """The numbers for JSON, with the number of unreliable data."""
        largest = self.rhat.max().item()
        finite = largest if math.isfinite(largest) else None
        return {**super().as_json(), "largest_rhat": finite, "unmixed": len(self.unmixed)}


def marginal_by_hmc(
    model: Callable[..., object],
    guide: Callable[..., object],
    data: object,
    num_particles: int = 16,
    num_samples: int = 100,
    *,
    start: str = "guide",
    num_leapfrog_steps: int = 10,
    seed: int = 0,
    max_bytes: int | None = None,
    progress: bool = False,
) -> ChainLogLikelihood:
    """Estimate log p(x) as -log mean_l q(z_l) / p(x, z_l) over posterior draws, in nats per datum.

    Annealing brings chains of Hamiltonian Monte Carlo to p(z | x) and tunes their step sizes, which
    then stay fixed. A density q is fitted to the first half of each chain: a Gaussian with full
    covariance on the unconstrained latents (the paper leaves the family open). The mean over the
    second half has the expectation 1 / p(x), so that the estimate is an upper bound in expectation
    if the chains have reached the posterior. Its variance may be infinite if the posterior's tails
    are lighter than a Gaussian's.

    References:
        Auto-Encoding Variational Bayes (D. P. Kingma, M. Welling, 2013), appendix D,
        https://arxiv.org/abs/1312.6114

    Args:
        model: p(x, z), as in `pvae.ais`, with at most 5 latent dimensions per datum.
        guide: q(z | x), called with the same arguments; unused if `start` is "prior".
        data: a tensor of shape (N, ...), a tuple of tensors, or a split of a data set.
        num_particles: chains per datum.
        num_samples: draws of each chain, at least 2.
        start: density of the initial states: "guide" or "prior".
        num_leapfrog_steps: leapfrog steps of one transition.
        seed: seeds the chains.
        max_bytes: bytes that the tensors of one gradient may take; at least one datum's chains go
            into one.
        progress: show a progress bar.

    Returns:
        A `ChainLogLikelihood`: `.mean`, `.std_error`, `.mc_error`, from the spread between chains
        and given the fit, `.per_datum` (N,), `.rhat` (N,), and `.warning`, a sentence about data
        whose chains have not mixed, or "".

    Raises:
        ValueError: as for `pvae.ais`; also if there are more than 5 latent dimensions, fewer than 2
            samples, or too few for the fit in the first halves of all chains.

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
        >>> estimate = pvae.evaluation.marginal_by_hmc(model, guide, torch.zeros(3), 8, 20)
        >>> exact = dist.Normal(0.0, 2.0**0.5).log_prob(torch.tensor(0.0))  # nats per datum
        >>> abs(estimate.mean - exact) < 0.1
        tensor(True)
    """
    at_least(
        1,
        num_particles=num_particles,
        num_samples=num_samples,
        num_leapfrog_steps=num_leapfrog_steps,
    )
    at_least(1, max_bytes=1 if max_bytes is None else max_bytes)
    used = start_guide(guide, start)
    means, variances, mixed = [], [], []
    with chain_context(model, used, data, seed) as (context, plate):
        source = context.source
        limit = context.rows_per_call(
            lambda batch, count: gradients(Densities(model, used, batch, count, plate)),
            max_bytes,
        )
        width = max(1, limit // num_particles)
        bar = tqdm(
            total=len(source),
            desc="posterior draws",
            unit="rows",
            disable=None if progress else True,
            leave=False,
        )
        for first in range(0, len(source), width):
            batch = source.arguments(slice(first, first + width))
            densities = Densities(model, used, batch, num_particles, plate)
            _check_sizes(densities.draws, num_particles, num_samples)
            draws, log_joint = _posterior(densities, len(batch[0]), num_samples, num_leapfrog_steps)
            log_mean, variance = _reciprocal(draws, log_joint)
            means.append(-log_mean.cpu())
            variances.append(variance.cpu())
            mixed.append(split_rhat(torch.cat([draws, log_joint[..., None]], -1)).cpu())
            bar.update(len(batch[0]))
        bar.close()
    per_datum = torch.cat(means)
    mc_error = math.sqrt(torch.cat(variances).sum().item()) / len(per_datum)
    mean, std_error = Estimate.over_data(per_datum)
    rhat = torch.cat(mixed).amax(-1).float()
    return ChainLogLikelihood(mean, std_error, mc_error, num_particles, per_datum.float(), rhat)


def _check_sizes(z: Latents, num_particles: int, num_samples: int) -> None:
    sizes = {name: value.shape[1] for name, value in z.items()}
    dimensions = sum(sizes.values())
    if dimensions > _MOST:
        raise ValueError(
            f"latent sites {sizes} have {dimensions} dimensions, and a density fitted to posterior "
            f"draws is unreliable above {_MOST}: estimate log p(x) with pvae.ais or "
            "pvae.log_likelihood"
        )
    if num_samples < 2 or num_samples // 2 * num_particles <= 2 * dimensions:
        raise ValueError(
            f"num_samples is {num_samples} with {num_particles} chains: give at least 2, and "
            f"enough that half of all draws are more than {2 * dimensions}, to fit a density"
        )


def _posterior(
    densities: Densities, rows: int, num_samples: int, num_leapfrog_steps: int
) -> tuple[Tensor, Tensor]:
    """Draws of p(z | x), (samples, chains, rows, dim), and log p(x, z) there, float64."""
    steps, z = tune(densities, temperatures(_TEMPERATURES), rows, num_leapfrog_steps)
    log_density = tempered(densities, 1.0)
    point = evaluate(log_density, z)
    step = steps[-1].repeat(len(point.log_density) // rows)
    draws, log_joint = [], []
    for _ in range(num_samples):
        point, _ = transition(log_density, point, step, num_leapfrog_steps)
        draws.append(torch.cat(tuple(point.z.values()), 1).double().reshape(-1, rows, _dim(z)))
        log_joint.append(point.log_density.reshape(-1, rows))
    return torch.stack(draws), torch.stack(log_joint)


def _dim(z: Latents) -> int:
    return sum(value.shape[1] for value in z.values())


def _reciprocal(draws: Tensor, log_joint: Tensor) -> tuple[Tensor, Tensor]:
    """log mean q(z) / p(x, z) per datum, (rows,), and its variance, from the spread of chains."""
    half = len(draws) // 2
    fitted = draws[:half].flatten(0, 1)  # (samples, rows, dim)
    loc = fitted.mean(0)
    centred = (fitted - loc).movedim(1, 0)
    covariance = centred.mT @ centred / (len(fitted) - 1)
    q = MultivariateNormal(loc, covariance)
    log_ratios = q.log_prob(draws[half:]) - log_joint[half:]  # (samples, chains, rows)
    of_chains = log_ratios.logsumexp(0) - math.log(len(log_ratios))
    num_chains = len(of_chains)
    log_mean = of_chains.logsumexp(0) - math.log(num_chains)
    # The delta method, with chains that are independent of each other.
    relative = (of_chains - log_mean).exp()
    return log_mean, relative.var(0) / num_chains


def split_rhat(draws: Tensor) -> Tensor:
    """Gelman and Rubin's R-hat of chains that are split in two, so that a drift within one shows.

    Args:
        draws: shape (samples, chains, ...), at least 2 samples.

    Returns:
        Shape (...); NaN with fewer than 4 samples, infinite or NaN if half chains do not move.
    """
    half = len(draws) // 2
    halves = torch.cat([draws[:half], draws[-half:]], 1)
    within = halves.var(0).mean(0)
    between = halves.mean(0).var(0)
    return ((half - 1) / half + between / within).sqrt()
