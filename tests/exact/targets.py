"""The exact expectations of the gradient estimators, as sums over the guide's points.

Every function takes a pair of `small_pairs` and rows of its data, and returns losses: minus the
bound, summed over the rows, in nats, differentiable in the pair's parameters.
"""

from dataclasses import dataclass

import torch
from exact.small_pairs import Pair, Points
from torch import Tensor

__all__ = [
    "Target",
    "elbo",
    "free_bits",
    "importance_weighted",
    "reweighted_wake_sleep",
    "wake_sleep",
]


@dataclass(frozen=True)
class Target:
    """Losses whose gradients are exact.

    Attributes:
        model: the loss of the model's parameters.
        guide: the loss of the guide's parameters; the same as `model` if there is one objective.
        value: the exact mean of the estimator's loss.
    """

    model: Tensor
    guide: Tensor
    value: Tensor

    def gradients(self, pair: Pair) -> dict[str, Tensor]:
        """Exact gradients, by parameter name."""
        found: dict[str, Tensor] = {}
        for part, loss in (("generative", self.model), ("recognition", self.guide)):
            own = {f"{part}.{name}": p for name, p in getattr(pair, part).named_parameters()}
            grads = torch.autograd.grad(loss, list(own.values()), retain_graph=True)
            found.update(zip(own, grads, strict=True))
        return found


def elbo(pair: Pair, x: Tensor, **beta: float) -> Target:
    """E_q[log p(x | z)] - sum_s beta_s KL_s; beta by site (default: 1)."""
    at = pair.points(x)
    loss = -(at.mass * at.likelihood).sum()
    for site, guide in at.guide.items():
        loss = loss + beta.get(site, 1.0) * (at.mass * (guide - at.prior[site])).sum()
    return Target(loss, loss, loss)


def free_bits(pair: Pair, x: Tensor, floor: float, over: str) -> Target:
    """The ELBO with each KL, of a datum or averaged over the batch, clamped from below."""
    at = pair.points(x)
    loss = -(at.mass * at.likelihood).sum()
    for site, guide in at.guide.items():
        kl = (at.mass * (guide - at.prior[site])).sum(-1)
        if over == "batch":
            loss = loss + len(x) * kl.mean().clamp(min=floor)
        else:
            loss = loss + kl.clamp(min=floor).sum()
    return Target(loss, loss, loss)


def _tuples(at: Points, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """For all K-tuples of points: mass, (rows, tuples); log w and log q, (rows, tuples, K)."""
    number = at.mass.shape[-1]
    index = torch.cartesian_prod(*[torch.arange(number)] * k).reshape(-1, k)
    weight = at.log_joint - at.log_guide
    return at.mass[:, index].prod(-1), weight[:, index], at.log_guide[:, index]


def importance_weighted(pair: Pair, x: Tensor, k: int) -> Target:
    """E log(1/K sum_k w_k) over K independent draws."""
    mass, weights, _ = _tuples(pair.points(x), k)
    bound = weights.logsumexp(-1) - torch.tensor(float(k)).log()
    loss = -(mass * bound).sum()
    return Target(loss, loss, loss)


def reweighted_wake_sleep(pair: Pair, x: Tensor, k: int, insomnia: float) -> Target:
    """Reweighted wake-sleep, with weights normalized for each datum separately."""
    mass, weights, log_guide = _tuples(pair.points(x, moving=False), k)
    normalized = weights.softmax(-1).detach()
    wake = -(mass * (normalized * log_guide).sum(-1)).sum()
    bound = importance_weighted(pair, x, k).value
    return Target(bound, insomnia * wake + (1 - insomnia) * _sleep(pair, len(x)), bound)


def wake_sleep(pair: Pair, x: Tensor) -> Target:
    """Wake-sleep: the model learns from the guide's draws, the guide from the model's."""
    at = pair.points(x, moving=False)
    wake = -(at.mass * at.log_joint).sum()
    return Target(wake, _sleep(pair, len(x)), elbo(pair, x).value)


def _sleep(pair: Pair, rows: int) -> Tensor:
    mass, log_guide = pair.dreams()
    return -rows * (mass * log_guide).sum()
