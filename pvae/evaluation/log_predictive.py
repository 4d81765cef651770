"""The predictive density of held-out data, averaged over draws of the global sites."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from pyro import poutine
from torch import Tensor

from pvae._validation import at_least
from pvae.evaluation.context import EvaluationContext, context_of
from pvae.evaluation.estimate import Estimate, UndefinedQuantityError
from pvae.evaluation.log_weights import blocks
from pvae.pair.pair import Pair, pair_of
from pvae.pair.particles import total
from pvae.pair.program import Program
from pvae.pair.traces import sample_sites

__all__ = ["LogPredictive", "log_predictive"]


@dataclass(frozen=True)
class LogPredictive(Estimate):
    """The log predictive density of data under draws of a pair's global sites.

    Attributes:
        num_samples: draws of the global sites.
        joint: whether it is that of all data at once, divided by their number.

    Example:
        >>> import pvae, pyro, torch
        >>> import pyro.distributions as dist
        >>> def model(x):
        ...     w = pyro.sample("w", dist.Normal(0.0, 1.0))
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("x", dist.Normal(w, 1.0), obs=x)
        >>> def guide(x):
        ...     pyro.sample("w", dist.Normal(0.5, 0.1))
        >>> found = pvae.log_predictive(model, guide, torch.zeros(3), num_samples=10)
        >>> found.num_samples, found.per_datum.shape
        (10, torch.Size([3]))
    """

    num_samples: int
    joint: bool

    def as_json(self) -> dict[str, object]:
        """The numbers for JSON."""
        return {**super().as_json(), "num_samples": self.num_samples, "joint": self.joint}


def log_predictive(
    model: Callable[..., object],
    guide: Callable[..., object],
    data: object,
    num_samples: int = 100,
    num_particles: int = 100,
    *,
    joint: bool = False,
    seed: int = 0,
    max_bytes: int | None = None,
    progress: bool = False,
) -> LogPredictive:
    """Estimate the log predictive density of held-out data, in nats per datum.

    log 1/S sum_s p(x_n | w_s) for each datum n, with draws w_s of the global sites from the guide,
    the same for all data, and p(x_n | w_s) by importance sampling of the local sites. It is a lower
    bound on log E_q(w) p(x_n | w) in expectation, and tight as both numbers increase. The joint
    form is log 1/S sum_s prod_n p(x_n | w_s), divided by the number of data; few draws dominate it.

    References:
        A Widely Applicable Bayesian Information Criterion and cross-validation: Practical Bayesian
        Model Evaluation Using Leave-One-Out Cross-Validation and WAIC (A. Vehtari, A. Gelman,
        J. Gabry, 2017; section 2), https://arxiv.org/abs/1507.04544

    Args:
        model: p(x, z, w), called with one batch.
        guide: q(z, w | x), called with the same arguments.
        data: held-out data: a tensor of shape (N, ...), a tuple of tensors, or a split.
        num_samples: draws S of the global sites, at least 1.
        num_particles: draws from the guide's local sites per datum and draw; without local sites
            one is exact, and more are not taken.
        joint: evaluate all data at once.
        seed: seeds the draws.
        max_bytes: bytes that the tensors of one call of the pair may take (default: what is fast on
            the device).
        progress: show a progress bar of each draw.

    Returns:
        A `LogPredictive`: `.mean`, `.std_error` (NaN for the joint form), `.mc_error` (over draws
        of the global sites, whose spread contains that of the particles), `.per_datum` (N,).

    Raises:
        UndefinedQuantityError: if the guide has no global sites, the local ones have no density, or
            there is no data plate.

    Example:
        >>> import pvae, pyro, torch
        >>> import pyro.distributions as dist
        >>> def model(x):
        ...     w = pyro.sample("w", dist.Normal(0.0, 1.0))
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("x", dist.Normal(w, 1.0), obs=x)
        >>> def guide(x):
        ...     pyro.sample("w", dist.Normal(0.5, 0.1))
        >>> found = pvae.log_predictive(model, guide, torch.zeros(3), num_samples=1000)
        >>> exact = dist.Normal(0.5, 1.01**0.5).log_prob(torch.tensor(0.0))  # nats per datum
        >>> abs(found.mean - exact) < 5 * found.mc_error
        tensor(True)
    """
    at_least(1, num_samples=num_samples, num_particles=num_particles)
    context = context_of(model, guide, data)
    context.require_plate()
    names = context.global_sites
    if not names:
        raise UndefinedQuantityError(
            "the guide has no global sites, over which the predictive density is a mean: use "
            "pvae.log_likelihood"
        )
    context.require_whole_data()
    local = [n for n in context.density.points if n not in names]
    if local:
        raise UndefinedQuantityError(
            f"sites {local} of the guide are local point masses (Delta), so p(x | w) has no "
            "estimate with the guide as proposal: give them a distribution"
        )
    if not context.latent_sites and context.summed_out is None:
        num_particles = 1
    found = []
    for number in range(num_samples):
        at = _at_draw(context, names, seed + 7919 * number)
        found.append(_log_likelihoods(at, num_particles, seed + 7919 * number, max_bytes, progress))
    return _estimate(torch.stack(found), num_particles, joint=joint)


def _at_draw(context: EvaluationContext, names: list[str], seed: int) -> EvaluationContext:
    """The context of the pair at one draw of its global sites."""
    assert context.guide is not None
    with context.evaluating(seed):
        trace = poutine.trace(context.guide).get_trace(*context.source.first(2))
    values = {name: site["value"] for name, site in sample_sites(trace) if name in names}
    model, guide = (poutine.condition(p, values) for p in (context.model, context.guide))
    pair = pair_of(context.model, context.guide)
    if pair is not None:  # its device, and what is known of its data
        model, guide = _of(pair, model, "model"), _of(pair, guide, "guide")
    other = copy.copy(context)
    other.model, other.guide = model, guide
    return other


def _of(pair: Pair, program: Callable[..., object], role: str) -> Program:
    return Program(program, pair, role)


def _log_likelihoods(
    context: EvaluationContext, num_particles: int, seed: int, max_bytes: int | None, progress: bool
) -> Tensor:
    """log p(x_n | w) at one draw of w, shape (N,), float64."""
    found = torch.full((len(context.source),), -math.inf, dtype=torch.float64)
    label = "predictive density" if progress else ""
    for here, terms in blocks(
        context, num_particles, seed=seed, max_bytes=max_bytes, progress=label
    ):
        weights = total(terms.local).double().cpu().logsumexp(0)
        found[here] = torch.logaddexp(found[here], weights)
    return found - math.log(num_particles)


def _estimate(log_p: Tensor, num_particles: int, *, joint: bool) -> LogPredictive:
    """From log p(x_n | w_s), shape (samples, N)."""
    num_samples, size = log_p.shape
    if joint:
        log_p = log_p.sum(1, keepdim=True)
    per_datum = log_p.logsumexp(0) - math.log(num_samples)
    # The delta method; data share the draws, so that their errors are correlated.
    relative = (log_p - per_datum).exp().mean(1)
    mc_error = relative.std().item() / math.sqrt(num_samples) if num_samples > 1 else math.nan
    if joint:
        mean, std_error, mc_error = per_datum.item() / size, math.nan, mc_error / size
        per_datum = per_datum.expand(size) / size
    else:
        mean, std_error = Estimate.over_data(per_datum)
    return LogPredictive(
        mean, std_error, mc_error, num_particles, per_datum.float(), num_samples, joint
    )
