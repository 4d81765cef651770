"""Probabilistic PCA with a hierarchy of two latent coordinates, z2 above z1.

p(x, z1, z2) = N(z2; 0, 1) N(z1; 0.6 z2, 0.8^2) N(x; W [z1, z2] + b, s^2 I)
"""

import pyro
import pyro.distributions as dist
import torch
from exact import linear_gaussian as lg
from torch.distributions import kl_divergence


def model(x):
    with pyro.plate("data", len(x)):
        z2 = pyro.sample("z2", dist.Normal(x.new_zeros(len(x)), 1.0))
        z1 = pyro.sample("z1", dist.Normal(0.6 * z2, 0.8))
        loc = torch.stack([z1, z2], -1) @ lg.WEIGHT.T + lg.BIAS
        pyro.sample("x", dist.Normal(loc, lg.SCALE).to_event(1), obs=x)


PRIOR = torch.tensor([[1.0, 0.6], [0.6, 1.0]])
PRECISION = torch.linalg.inv(PRIOR) + lg.WEIGHT.T @ lg.WEIGHT / lg.SCALE**2
COVARIANCE = torch.linalg.inv(PRECISION)


def posterior_loc(x):
    return (x - lg.BIAS) @ torch.linalg.solve(PRECISION, lg.WEIGHT.T / lg.SCALE**2).T


def posterior(order):
    """The exact posterior of `model`, one coordinate after the other."""

    def guide(x):
        loc, c = posterior_loc(x), COVARIANCE
        first, second = (0, 1) if order == "up" else (1, 0)
        names = ("z1", "z2")
        with pyro.plate("data", len(x)):
            a = pyro.sample(names[first], dist.Normal(loc[:, first], c[first, first] ** 0.5))
            slope = c[0, 1] / c[first, first]
            rest = (c[second, second] - slope * c[0, 1]) ** 0.5
            mean = loc[:, second] + slope * (a - loc[:, first])
            pyro.sample(names[second], dist.Normal(mean, rest))

    return guide


def draw(rows):
    z = torch.randn(rows, 2) @ torch.linalg.cholesky(PRIOR).T
    return z @ lg.WEIGHT.T + lg.BIAS + lg.SCALE * torch.randn(rows, lg.X)


def divergence(x):
    q = dist.MultivariateNormal(posterior_loc(x), precision_matrix=PRECISION)
    return kl_divergence(q, dist.MultivariateNormal(torch.zeros(2), PRIOR)).mean().item()
