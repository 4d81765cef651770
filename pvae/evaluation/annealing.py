"""Chains along the geometric path between two densities, with their importance weights."""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from pvae.pair.densities import Densities
from pvae.pair.hmc import Latents, LogDensity, Point, evaluate, transition

__all__ = ["Chains", "anneal", "gradients", "temperatures", "tempered", "tune"]

# The target of tuning. For independent draws 0.651 is best in theory (Beskos et al., 2013,
# https://arxiv.org/abs/1001.4460); sandwiches of few leapfrog steps were a third narrower at 0.8.
_ACCEPTANCE = 0.8
# Transitions of a pilot run that find the first step size, and at least as many along the path.
_WARM_UP, _PILOT = 20, 40


class Chains(NamedTuple):
    """The results of annealed chains.

    Attributes:
        log_weights: shape (chains,), float64, in nats.
        acceptance: mean probability of acceptance, shape (chains,); NaN without transitions.
    """

    log_weights: Tensor
    acceptance: Tensor

    def by_datum(self, count: int, rows: int) -> "Chains":
        """On the CPU, in shape (count, rows)."""
        return Chains(*(part.reshape(count, rows).cpu() for part in self))

    @staticmethod
    def joined(parts: Iterable["Chains"], dim: int) -> "Chains":
        """Several in one."""
        return Chains(*(torch.cat(same, dim) for same in zip(*parts, strict=True)))


def temperatures(number: int) -> list[float]:
    """Inverse temperatures from 0 to 1, `number` steps, dense at both ends.

    The schedule is a sigmoid from -4 to 4, scaled, as in the code of On the Quantitative Analysis
    of Decoder-Based Generative Models (Y. Wu et al., 2017), https://arxiv.org/abs/1611.04273.
    """
    curve = torch.linspace(-4, 4, number + 1, dtype=torch.float64).sigmoid()
    betas: list[float] = ((curve - curve[0]) / (curve[-1] - curve[0])).tolist()
    return betas


def tempered(densities: Densities, beta: float) -> LogDensity:
    """The log-density (1 - beta) log f_0 + beta log p(x, z)."""

    def log_density(z: Latents) -> Tensor:
        start, target = densities(z)
        return (1 - beta) * start + beta * target

    return log_density


def gradients(densities: Densities) -> Point:
    """One gradient of both densities, as in every step of a chain."""
    return evaluate(tempered(densities, 0.5), densities.draws)


def anneal(
    densities: Densities,
    z: Latents,
    betas: list[float],
    steps: list[Tensor],
    num_leapfrog_steps: int,
    tick: Callable[[], object],
) -> Chains:
    """Run chains along a path and compute their weights.

    log w = sum_t log f_t(z_(t-1)) - log f_(t-1)(z_(t-1)), z_t from HMC that leaves f_t invariant

    Args:
        densities: at both ends.
        z: exact draws from the first density of the path, by site, shape (chains, dim).
        betas: inverse temperatures along the path, T + 1 of them; from 1 to 0 it runs in reverse.
        steps: step sizes at the T - 1 inner ones, each (chains,), chosen by other random numbers.
        num_leapfrog_steps: leapfrog steps of a transition.
        tick: called at each temperature.
    """
    point = evaluate(tempered(densities, betas[0]), z)
    log_weights = torch.zeros_like(point.log_density)
    acceptance = torch.zeros_like(point.log_density)
    for index, beta in enumerate(betas[1:]):
        log_density = tempered(densities, beta)
        here = evaluate(log_density, point.z)
        # A weight of zero stays zero, although inf - inf is NaN.
        change = (here.log_density - point.log_density).nan_to_num(
            nan=-math.inf, posinf=math.inf, neginf=-math.inf
        )
        log_weights = log_weights + change
        if index < len(steps):
            point, accepted = transition(log_density, here, steps[index], num_leapfrog_steps)
            acceptance += accepted
        tick()
    return Chains(log_weights, acceptance / len(steps) if steps else acceptance * math.nan)


def tune(
    densities: Densities, betas: list[float], rows: int, num_leapfrog_steps: int
) -> tuple[list[Tensor], Latents]:
    """Step sizes for every temperature and datum, from a pilot run up to beta = 1.

    Args:
        densities: at both ends; chain k of row r is chain k * rows + r.
        betas: inverse temperatures from 0 to 1, T + 1 of them.
        rows: number of data.
        num_leapfrog_steps: leapfrog steps of a transition.

    Returns:
        Step sizes at all but the first temperature, each (rows,), and where the chains ended.
    """
    z = densities.draws
    count = len(next(iter(z.values()))) // rows
    log_step = next(iter(z.values())).new_full((rows,), math.log(0.1))
    repeats = math.ceil(_PILOT / (len(betas) - 1))
    steps = []
    for index, beta in enumerate(betas[1:]):
        log_density = tempered(densities, beta)
        point = evaluate(log_density, z)
        first = _WARM_UP if index == 0 else 0
        for turn in range(first + repeats):
            step = log_step.exp().repeat(count)
            point, accepted = transition(log_density, point, step, num_leapfrog_steps)
            mean = accepted.reshape(count, rows).mean(0)
            gain = 1.0 if turn < first // 2 else 0.5 if turn < first else 0.2
            log_step = log_step + gain * (mean - _ACCEPTANCE).to(log_step.dtype)
        steps.append(log_step.exp())
        z = point.z
    return steps, z
