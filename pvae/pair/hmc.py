"""Hamiltonian Monte Carlo for many independent chains at once."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Latents", "LogDensity", "Point", "evaluate", "transition"]

# By site, unconstrained values of shape (chains, dim).
Latents = dict[str, Tensor]
LogDensity = Callable[[Latents], Tensor]


class Point(NamedTuple):
    """States of chains.

    Attributes:
        z: by site, shape (chains, dim).
        log_density: at z, up to a constant, shape (chains,), in nats.
        gradient: gradient of the log-density, by site, shape (chains, dim).
    """

    z: Latents
    log_density: Tensor
    gradient: Latents


def evaluate(log_density: LogDensity, z: Latents) -> Point:
    """A log-density and its gradient in z; parameters receive no gradients.

    Args:
        log_density: of each chain by itself, from z to shape (chains,).
        z: by site, shape (chains, dim).
    """
    with torch.enable_grad():
        leaves = {name: value.detach().requires_grad_() for name, value in z.items()}
        values = log_density(leaves)
        gradients = torch.autograd.grad(
            values.sum(), tuple(leaves.values()), allow_unused=True, materialize_grads=True
        )
    return Point(z, values.detach(), dict(zip(z, gradients, strict=True)))


def transition(
    log_density: LogDensity, start: Point, step_size: Tensor, num_leapfrog_steps: int
) -> tuple[Point, Tensor]:
    """One transition of every chain that leaves its density invariant; the mass is the identity.

    Each chain accepts or rejects on its own; a proposal with a NaN density is rejected.

    References:
        MCMC using Hamiltonian dynamics (R. M. Neal, 2011), https://arxiv.org/abs/1206.1901

    Args:
        log_density: of each chain by itself, from z to shape (chains,).
        start: the states, evaluated under this same density.
        step_size: of each chain, shape (chains,), above 0; it must not depend on `start`.
        num_leapfrog_steps: at least 1.

    Returns:
        The next states, and the acceptance probabilities, shape (chains,).
    """
    # Random step sizes keep trajectories from closing on themselves (Neal, section 5.4.2.2).
    size = (step_size * (0.8 + 0.4 * torch.rand_like(step_size)))[:, None]
    drawn = {name: torch.randn_like(value) for name, value in start.z.items()}
    momentum, here = drawn, start
    for _ in range(num_leapfrog_steps):
        momentum = _moved(momentum, here.gradient, size / 2)
        here = evaluate(log_density, _moved(here.z, momentum, size))
        momentum = _moved(momentum, here.gradient, size / 2)
    change = here.log_density - start.log_density + _kinetic(drawn) - _kinetic(momentum)
    probability = change.clamp(max=0).exp().nan_to_num(nan=0.0)
    accepted = torch.rand_like(probability) < probability
    return _chosen(accepted, here, start), probability


def _moved(values: Latents, by: Latents, size: Tensor) -> Latents:
    return {name: value + size * by[name] for name, value in values.items()}


def _kinetic(momentum: Latents) -> Tensor:
    return sum((0.5 * part.double().square().sum(1) for part in momentum.values()), torch.tensor(0))


def _chosen(accepted: Tensor, there: Point, here: Point) -> Point:
    column = accepted[:, None]
    return Point(
        {name: torch.where(column, there.z[name], value) for name, value in here.z.items()},
        torch.where(accepted, there.log_density, here.log_density),
        {n: torch.where(column, there.gradient[n], part) for n, part in here.gradient.items()},
    )
