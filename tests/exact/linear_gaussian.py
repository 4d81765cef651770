"""Probabilistic PCA: evidence, posterior and maximum likelihood in closed form.

p(x, z) = N(z; 0, I) N(x; W z + b, s^2 I)

Reference: Probabilistic Principal Component Analysis (M. E. Tipping, C. M. Bishop, 1999).
"""

import math

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

X, Z = 5, 2
WEIGHT = torch.tensor([[2.0, 1.5], [1.5, 1.5], [0.0, 1.0], [1.0, 0.5], [0.5, 1.0]])
BIAS = torch.tensor([0.5, -1.0, 0.0, 1.0, 2.0])
SCALE = 0.7
PRECISION = torch.eye(Z) + WEIGHT.T @ WEIGHT / SCALE**2


def model(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(Z), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ WEIGHT.T + BIAS, SCALE).to_event(1), obs=x)


def posterior_loc(x: Tensor) -> Tensor:
    return (x - BIAS) @ torch.linalg.solve(PRECISION, WEIGHT.T / SCALE**2).T


def posterior(x: Tensor) -> None:
    """The exact posterior as a guide."""
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.MultivariateNormal(posterior_loc(x), precision_matrix=PRECISION))


def wide(x: Tensor) -> None:
    """The exact mean and 1.5 times the exact covariance."""
    with pyro.plate("data", len(x)):
        pyro.sample(
            "z", dist.MultivariateNormal(posterior_loc(x), precision_matrix=PRECISION / 1.5)
        )


# KL(q || p) of `wide`, the same for every datum: 0.5 (tr R - Z - log det R), R = 1.5 I.
WIDE_GAP = 0.5 * (1.5 * Z - Z - Z * math.log(1.5))

# KL of the best factorized Gaussian: 0.5 (sum log Lambda_ii - log det Lambda).
MEAN_FIELD_GAP = 0.5 * (PRECISION.diag().log().sum() - PRECISION.logdet()).item()


def draw(rows: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(rows, Z, generator=generator)
    return z @ WEIGHT.T + BIAS + SCALE * torch.randn(rows, X, generator=generator)


def evidence(x: Tensor) -> Tensor:
    """log p(x), shape (rows,), in nats."""
    covariance = WEIGHT @ WEIGHT.T + SCALE**2 * torch.eye(X)
    return dist.MultivariateNormal(BIAS, covariance).log_prob(x)


def best_evidence(x: Tensor) -> float:
    """The maximum of the mean evidence over W, b and s for data x, in nats per datum."""
    values = torch.linalg.eigvalsh(torch.cov(x.double().T, correction=0)).flip(0)
    noise = values[Z:].mean()
    log_det = values[:Z].log().sum() + (X - Z) * noise.log()
    return (-0.5 * (X * math.log(2 * math.pi) + log_det + X)).item()
