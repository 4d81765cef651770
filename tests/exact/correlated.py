"""A linear-Gaussian model whose posterior is strongly correlated, with what families can reach.

p(x, z) = N(z; 0, I) N(x; W z, s^2 I), three latents, four observed values.
"""

import math

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

WEIGHT = torch.tensor([[2.0, 1.5, 0.3], [1.5, 1.5, 1.0], [0.0, 1.0, -1.2], [1.0, 0.5, 0.8]])
SCALE = 0.8
PRECISION = torch.eye(3) + WEIGHT.T @ WEIGHT / SCALE**2
# loc(x) = x POSTERIOR_WEIGHT^T
POSTERIOR_WEIGHT = torch.linalg.solve(PRECISION, WEIGHT.T) / SCALE**2

# KL of the best factorized Gaussian: 0.5 (sum log Lambda_ii - log det Lambda).
MEAN_FIELD_GAP = 0.5 * (PRECISION.diag().log().sum() - PRECISION.logdet()).item()


def model(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ WEIGHT.T, SCALE).to_event(1), obs=x)


def draw(rows: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(rows, 3, generator=generator)
    return z @ WEIGHT.T + SCALE * torch.randn(rows, 4, generator=generator)


def evidence(x: Tensor) -> Tensor:
    """log p(x), shape (rows,), in nats."""
    covariance = WEIGHT @ WEIGHT.T + SCALE**2 * torch.eye(4)
    return dist.MultivariateNormal(torch.zeros(4), covariance).log_prob(x)


def best_low_rank(rank: int) -> tuple[Tensor, Tensor, float]:
    """Scales and factor that minimize KL(q || p(z | x)), and that divergence in nats."""
    precision = PRECISION.double()
    generator = torch.Generator().manual_seed(0)
    factor = 0.3 * torch.randn(3, rank, generator=generator, dtype=torch.float64)
    log_scale = torch.zeros(3, dtype=torch.float64).requires_grad_()
    factor.requires_grad_()
    optimizer = torch.optim.LBFGS(
        [log_scale, factor], max_iter=2000, tolerance_grad=1e-12, tolerance_change=1e-14
    )

    def divergence() -> Tensor:
        covariance = torch.diag((2 * log_scale).exp()) + factor @ factor.T
        trace = (precision @ covariance).trace()
        return 0.5 * (trace - 3 - precision.logdet() - covariance.logdet())

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = divergence()
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():  # smaller scales are lost in float32
        log_scale.clamp_(min=math.log(0.03))
    return log_scale.exp().detach().float(), factor.detach().float(), divergence().item()
