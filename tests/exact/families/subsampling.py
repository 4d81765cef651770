"""Plates that select some elements: of each datum, or of the data set."""

from collections.abc import Iterator

import pyro
import pyro.distributions as dist
import torch
from exact.case import Row, of_estimate

import pvae

PIXELS = 10


def pixels(count):
    """The likelihood of each datum is estimated from some of its pixels."""

    def model(x):
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 1), 1.0))
            with pyro.plate("pixels", PIXELS, subsample_size=count, dim=-1) as chosen:
                pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, chosen])

    def guide(x):
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.Normal(0.08 * x.sum(1, keepdim=True), 0.4))

    return model, guide


def minibatch(x):
    """A plate that is sized to the data set."""
    with pyro.plate("data", 1000, subsample_size=len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def minibatch_guide(x):
    with pyro.plate("data", 1000, subsample_size=len(x)):
        pyro.sample("z", dist.Normal(0.4 * x, 0.8))


def rows(effort: int) -> Iterator[Row]:
    x = torch.randn(40, PIXELS, generator=torch.Generator().manual_seed(1)).double() + 0.5
    loc, scale = 0.08 * x.sum(1), 0.4
    fits = dist.Normal(loc[:, None], 1.0).log_prob(x) - 0.5 * scale**2
    gap = 0.5 * (loc**2 + scale**2 - 1) - torch.tensor(scale).log()
    bound = (fits.sum(1) - gap).mean()
    covariance = torch.eye(PIXELS) + 1
    evidence = dist.MultivariateNormal(torch.zeros(PIXELS), covariance).log_prob(x.float()).mean()
    for count in (5, 3, PIXELS):
        name = f"{count} of {PIXELS} pixels"
        found = pvae.elbo(*pixels(count), x.float(), 500 * effort)
        yield of_estimate(name, "elbo", found, bound)
    found = pvae.log_likelihood(*pixels(PIXELS), x.float(), 2000 * effort)
    yield of_estimate("all pixels", "log_likelihood", found, evidence)
    x = torch.randn(60, generator=torch.Generator().manual_seed(2)).double() * 2**0.5
    found = pvae.elbo(minibatch, minibatch_guide, x.float(), 500 * effort)
    loc, scale = 0.4 * x, torch.tensor(0.8).double()
    exact = dist.Normal(loc, 1.0).log_prob(x) - 0.5 * scale**2
    exact = exact - 0.5 * (loc**2 + scale**2 - 1) + scale.log()
    yield of_estimate("a plate of the data set's size", "elbo", found, exact.mean())
    evidence = dist.Normal(0.0, 2**0.5).log_prob(x).mean()
    found = pvae.log_likelihood(minibatch, minibatch_guide, x.float(), 2000 * effort)
    yield of_estimate("a plate of the data set's size", "log_likelihood", found, evidence)
