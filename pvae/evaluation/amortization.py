"""The amortization gap: the guide's bound against that of its family fitted to each datum."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from torch import Tensor

from pvae._validation import at_least, positive
from pvae.evaluation.context import EvaluationContext, context_of, parts
from pvae.evaluation.estimate import Estimate
from pvae.evaluation.variational_family import Family, family_of
from pvae.pair.interventions import at_means
from pvae.pair.log_prob import log_weight_terms
from pvae.pair.preserve import seeded
from pvae.pair.tiling import tiled
from pvae.pair.traces import latent_sites, paired_traces

__all__ = ["AmortizationGap", "amortization_gap"]


@dataclass(frozen=True)
class AmortizationGap(Estimate):
    """The bound with the guide's family fitted to each datum, minus the guide's bound.

    Attributes:
        guide: mean of the guide's bound, in nats per datum.
        fitted: mean of the bound of the fitted family, with the same random numbers.
        history: noisy estimate of the mean bound before each step of the fit, shape (num_steps,).
            If it still rises at the end, the gap is larger than `mean`: take more steps.

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
        >>> gap = pvae.evaluation.amortization_gap(model, guide, torch.zeros(3), num_steps=20)
        >>> gap.history.shape, abs(gap.mean) < 0.1  # nats per datum
        (torch.Size([20]), True)
    """

    guide: float
    fitted: float
    history: Tensor = field(repr=False)

    def as_json(self) -> dict[str, object]:
        """The numbers for JSON."""
        return {
            **super().as_json(),
            "guide": self.guide,
            "fitted": self.fitted,
            "num_data": len(self.per_datum),
            "num_steps": len(self.history),
        }


def amortization_gap(
    model: Callable[..., object],
    guide: Callable[..., object],
    data: object,
    *,
    num_steps: int = 500,
    learning_rate: float = 0.05,
    num_draws: int = 8,
    num_particles: int = 100,
    seed: int = 0,
) -> AmortizationGap:
    """Fit the parameters of q(z | x) to each datum, and measure how much the bound rises.

    gap(x) = max_lambda ELBO(x; lambda) - ELBO(x; lambda(x)), lambda(x) the guide's output

    lambda are the parameters of the distributions at the guide's latent sites (loc and scale of a
    Normal, ...). They start at the guide's output and are fitted by Adam, with a cosine schedule to
    0 and gradients without the score term. The pair is not changed. The gap is a lower bound in
    expectation, since the fit may not reach the maximum.

    In a hierarchy each site's parameters are free per datum and no longer functions of the sites
    before it. The fitted family then factorizes over layers, which the guide may not do, and the
    gap can be negative.

    References:
        Inference Suboptimality in Variational Autoencoders (C. Cremer, X. Li, D. Duvenaud, 2018),
        https://arxiv.org/abs/1801.03558
        Sticking the Landing (G. Roeder, Y. Wu, D. Duvenaud, 2017),
        https://arxiv.org/abs/1703.09194, for the gradient.

    Args:
        model: p(x, z), called with one batch.
        guide: q(z | x), called with the same arguments; its latent sites must be reparameterized
            distributions in closed form.
        data: a tensor of shape (N, ...), a tuple of tensors, or a split of a data set.
        num_steps: steps of Adam per batch of data, at least 1.
        learning_rate: initial learning rate on unconstrained parameters, above 0.
        num_draws: draws per datum and step, at least 1.
        num_particles: new draws per datum for the estimates of both bounds, at least 1.
        seed: seeds the draws.

    Returns:
        An `AmortizationGap`: `.mean`, `.std_error`, `.mc_error`, `.per_datum` (N,), `.guide`,
        `.fitted`, `.history` (num_steps,).

    Raises:
        ValueError: if a number is out of range, or (`UndefinedQuantityError`) there is no
            vectorized data plate with a latent site, the guide has global latent sites, or a site
            is discrete, not reparameterized, or of a distribution that cannot be rebuilt from its
            parameters (a flow, a point mass).

    Example:
        >>> import pyro, torch
        >>> import pyro.distributions as dist
        >>> from pvae.evaluation import amortization_gap
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):  # the posterior, half a unit off: KL(q || p(z | x)) = 0.5^2 / (2 * 0.5)
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2 + 0.5, 0.5**0.5))
        >>> gap = amortization_gap(model, guide, torch.zeros(3), num_particles=1000)
        >>> abs(gap.mean - 0.25) < 4 * gap.mc_error
        True
    """
    at_least(1, num_steps=num_steps, num_draws=num_draws, num_particles=num_particles)
    positive(learning_rate=learning_rate)
    found: list[tuple[Tensor, Tensor]] = []
    history = torch.zeros(num_steps, dtype=torch.float64)
    context = context_of(model, guide, data)
    context.require_latent_sites()
    with context.evaluating(seed):
        size = len(context.source)
        for number, part in enumerate(parts(size, context.rows_per_run() // num_draws)):
            batch = context.source.arguments(part)
            free = _fitted(
                model, guide, context, batch, num_steps, learning_rate, num_draws, history
            )
            # The same random numbers for both, and none that the fit has used.
            fresh = seed + 7919 * (number + 1)
            weights = []
            for program in (guide, free):
                with seeded(fresh):
                    weights.append(_weights(model, program, context, batch, num_particles))
            found.append((weights[0], weights[1]))
    before, after = (torch.cat(half, 1) for half in zip(*found, strict=True))
    per_datum = (after - before).mean(0)
    mean, std_error = Estimate.over_data(per_datum)
    mc_error = math.nan
    if num_particles > 1:
        noise = (after - before).var(0).sum().item() / num_particles
        mc_error = math.sqrt(noise) / size
    return AmortizationGap(
        mean,
        std_error,
        mc_error,
        num_particles,
        per_datum.float(),
        before.mean().item(),
        after.mean().item(),
        (history / size).float(),
    )


class _Free(Messenger):
    """Replaces the distributions of a guide by a fitted family."""

    def __init__(self, families: dict[str, Family], count: int) -> None:
        super().__init__()
        self.families = families
        self.count = count

    def _pyro_sample(self, msg: Message[Any, Any]) -> None:
        family = self.families.get(msg["name"] or "")
        if family is not None:
            msg["fn"] = cast(Any, family.distribution(self.count))


def _fitted(
    model: Callable[..., object],
    guide: Callable[..., object],
    context: EvaluationContext,
    batch: tuple[Tensor, ...],
    num_steps: int,
    learning_rate: float,
    num_draws: int,
    history: Tensor,
) -> Callable[..., object]:
    """The guide with its distributions fitted to each row of the batch; updates the history."""
    rows = len(batch[0])
    sites = latent_sites(poutine.trace(at_means(guide)).get_trace(*batch))
    families = {name: family_of(name, site, context.frame(site)) for name, site in sites.items()}
    leaves = [leaf for family in families.values() for leaf in family.leaves]
    optimizer = torch.optim.Adam(leaves, learning_rate)
    tiles = tiled(batch, num_draws)
    free = _Free(families, num_draws)(guide)
    for step in range(num_steps):
        falling = 0.5 * (1 + math.cos(math.pi * step / num_steps))
        optimizer.param_groups[0]["lr"] = learning_rate * falling
        with torch.enable_grad():
            model_trace, guide_trace = paired_traces(model, free, tiles)
            for name, family in families.items():
                # The path of the draw alone, since the score has mean 0 and adds variance.
                constant = family.distribution(num_draws, detached=True)
                guide_trace.nodes[name]["fn"] = cast(Any, constant)
            local, _ = log_weight_terms(model_trace, guide_trace, context.plate)
            bound = torch.stack(tuple(local.values())).sum() / num_draws
            # Not `backward`, which would change the gradients of the pair's parameters.
            gradients = torch.autograd.grad(-bound, leaves)
        for leaf, gradient in zip(leaves, gradients, strict=True):
            leaf.grad = gradient
        optimizer.step()
        history[step] += bound.item()

    def program(*args: Tensor) -> object:
        with _Free(families, len(args[0]) // rows):
            return guide(*args)

    return program


def _weights(
    model: Callable[..., object],
    guide: Callable[..., object],
    context: EvaluationContext,
    batch: tuple[Tensor, ...],
    num_particles: int,
) -> Tensor:
    """log p(x, z) - log q(z | x) of each particle and row, (particles, rows), float64."""
    rows = len(batch[0])
    found = []
    for part in parts(num_particles, context.rows_per_run() // rows):
        count = part.stop - part.start
        local, _ = log_weight_terms(
            *paired_traces(model, guide, tiled(batch, count)), context.plate
        )
        found.append(torch.stack(tuple(local.values())).sum(0).double().reshape(count, rows).cpu())
    return torch.cat(found)
