"""Rows of the table of exact values: estimate, exact value, error and z."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyro
import torch
from exact.small_pairs import gauss_hermite
from torch import Tensor

__all__ = ["Row", "importance_weighted", "of_estimate", "of_objective"]

Params = dict[str, Tensor]
_ROUNDING = 2e-5  # of float32, relative to 1 + |exact|


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        pair: name of the pair.
        quantity: what is estimated.
        estimate: by pvae.
        exact: by quadrature, enumeration or a closed form.
        error: the standard error that is stated, or that of independent repetitions.
    """

    pair: str
    quantity: str
    estimate: float
    exact: float
    error: float

    @property
    def z(self) -> float:
        """The difference in standard errors, apart from what float32 rounds."""
        apart = max(0.0, abs(self.estimate - self.exact) - _ROUNDING * (1 + abs(self.exact)))
        sign = math.copysign(1.0, self.estimate - self.exact)
        if not math.isfinite(self.estimate):
            return math.inf
        if not apart:
            return 0.0
        return sign * apart / self.error if self.error else sign * math.inf


def of_estimate(pair: str, quantity: str, found: object, exact: float | Tensor) -> Row:
    """The row of an estimate of `pvae.evaluation`, with the error that it states."""
    exact = exact.item() if isinstance(exact, Tensor) else exact
    return Row(pair, quantity, found.mean, exact, found.mc_error)


def of_objective(
    pair: str,
    objective: object,
    programs: tuple[Callable[..., object], Callable[..., object]],
    datum: Sequence[object],
    start: Mapping[str, object],
    bound: Callable[[Params], Tensor],
    *,
    name: str = "",
    guide_bound: Callable[[Params], Tensor] | None = None,
    guide: Sequence[str] = (),
    rows: int = 4000,
    repeats: int = 32,
) -> Iterator[Row]:
    """Rows of the loss of an objective and of each parameter's gradient, per datum.

    Args:
        pair: name of the pair.
        objective: of `pvae.objectives`.
        programs: model and guide.
        datum: one datum, of which a batch has copies; one for each argument of the programs.
        start: values of the parameters, which the programs read with `pyro.param`.
        bound: from the parameters, in float64, to the exact expectation of the bound.
        name: of the objective (default: its class and number of particles).
        guide_bound: whose gradient the guide's parameters receive, if it is another one.
        guide: names of the guide's parameters.
        rows: copies in a batch.
        repeats: independent batches.
    """
    name = name or f"{type(objective).__name__}({objective.num_particles})"
    batch = [
        torch.as_tensor(part).float().expand(rows, *torch.as_tensor(part).shape) for part in datum
    ]
    exact = {
        key: torch.tensor(value, dtype=torch.float64).requires_grad_()
        for key, value in start.items()
    }
    value = -bound(exact)
    of_bound = torch.autograd.grad(value, list(exact.values()), allow_unused=True)
    gradients = dict(zip(exact, of_bound, strict=True))
    if guide_bound is not None:
        of_guide = torch.autograd.grad(-guide_bound(exact), [exact[key] for key in guide])
        gradients |= dict(zip(guide, of_guide, strict=True))
    found: dict[str, list[Tensor]] = {key: [] for key in ("loss", *start)}
    with pyro.get_param_store().scope():
        for key, number in start.items():
            pyro.param(key, torch.tensor(number))
        leaves = [pyro.param(key).unconstrained() for key in start]
        for _ in range(repeats):
            loss = objective.differentiable_loss(*programs, *(part.clone() for part in batch))
            found["loss"].append(loss.detach() / rows)
            given = torch.autograd.grad(loss, leaves, allow_unused=True)
            for key, leaf, gradient in zip(start, leaves, given, strict=True):
                gradient = torch.zeros_like(leaf) if gradient is None else gradient
                found[key].append(gradient / rows)
    wanted = {
        "loss": value.detach(),
        **{k: torch.zeros_like(exact[k]) if g is None else g for k, g in gradients.items()},
    }
    for key, values in found.items():
        each = torch.stack(values).double().reshape(repeats, -1)
        mean, error = each.mean(0), each.std(0) / math.sqrt(repeats)
        for i, number in enumerate(wanted[key].reshape(-1).tolist()):
            place = f"[{i}]" if wanted[key].numel() > 1 else ""
            quantity = f"{name} loss" if key == "loss" else f"{name} d/d{key}{place}"
            yield Row(pair, quantity, mean[i].item(), number, error[i].item())


def importance_weighted(
    log_weight: Callable[[Tensor], Tensor], dims: int, particles: int, nodes: int = 16
) -> Tensor:
    """E log 1/K sum_k w(noise_k) with standard normal noise, by a Gauss-Hermite rule.

    Args:
        log_weight: from noise (points, dims) to (points,).
        dims: of the noise of one particle.
        particles: K.
        nodes: in each dimension.
    """
    noise, mass = gauss_hermite(nodes, dims)
    weights = log_weight(noise)
    total = torch.zeros((), dtype=torch.float64)
    index = torch.tensor(list(itertools.product(range(len(mass)), repeat=particles)))
    for some in index.split(2**18):
        bound = weights[some].logsumexp(-1) - math.log(particles)
        total = total + (mass[some].prod(-1) * bound).sum()
    return total
