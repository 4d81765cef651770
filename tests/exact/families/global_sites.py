"""Sites outside the data plate: bounds on held-out data, and predictive densities."""

from collections.abc import Iterator

import pyro
import pyro.distributions as dist
import torch
from exact.case import Row, of_estimate

import pvae

SIZE = 200  # of the training set that the guide's scale belongs to
LOC, SCALE = 0.6, 0.15


def mean(x):
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(w, 1.0), obs=x)


def mean_guide(x):
    pyro.sample("w", dist.Normal(LOC, SCALE))


def regression(u, y):
    """Bayesian linear regression with a Gaussian posterior of its two weights."""
    w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("data", len(u)):
        pyro.sample("y", dist.Normal(w[0] + w[1] * u, 0.5), obs=y)


W_LOC = torch.tensor([0.3, -0.8])
W_COVARIANCE = torch.tensor([[0.04, 0.01], [0.01, 0.09]])


def regression_guide(u, y):
    pyro.sample("w", dist.MultivariateNormal(W_LOC, W_COVARIANCE))


def both(x):
    """A global mean and a latent of each datum."""
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(w.expand(len(x)), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def both_guide(x):
    pyro.sample("w", dist.Normal(LOC, SCALE))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.5 * x + 0.3, 0.8))


def mixture(x):
    """Global places of components, whose indicators are summed out."""
    with pyro.plate("components", 2):
        locs = pyro.sample("locs", dist.Normal(torch.zeros(2), 3.0))
    with pyro.plate("data", len(x)):
        y = pyro.sample(
            "y", dist.Categorical(torch.tensor([0.3, 0.7])), infer={"enumerate": "parallel"}
        )
        pyro.sample("x", dist.Normal(locs[y], 1.0), obs=x)


def mixture_guide(x):
    with pyro.plate("components", 2):
        pyro.sample("locs", dist.Normal(torch.tensor([-1.5, 1.5]), 0.2))


def rows(effort: int) -> Iterator[Row]:
    x = torch.randn(25, generator=torch.Generator().manual_seed(5)) + 0.5
    gap = 0.5 * (LOC**2 + SCALE**2 - 1) - torch.tensor(SCALE).log()
    fits = dist.Normal(LOC, 1.0).log_prob(x).mean() - 0.5 * SCALE**2
    for count in (25, 5):
        exact = dist.Normal(LOC, 1.0).log_prob(x[:count]).mean() - 0.5 * SCALE**2 - gap / SIZE
        found = pvae.elbo(mean, mean_guide, x[:count], 1000 * effort, data_size=SIZE)
        yield of_estimate(f"a global mean, {count} held-out data", "elbo", found, exact)
    found = pvae.elbo(mean, mean_guide, x, 1000 * effort)
    yield of_estimate("a global mean, its own data", "elbo", found, fits - gap / 25)
    exact = dist.Normal(LOC, (1 + SCALE**2) ** 0.5).log_prob(x).mean()
    found = pvae.log_predictive(mean, mean_guide, x, 300 * effort)
    yield of_estimate("a global mean", "log_predictive", found, exact)
    covariance = torch.eye(4) + SCALE**2
    exact = dist.MultivariateNormal(torch.full((4,), LOC), covariance).log_prob(x[:4]) / 4
    found = pvae.log_predictive(mean, mean_guide, x[:4], 500 * effort, joint=True)
    yield of_estimate("a global mean", "log_predictive, joint", found, exact)

    u = torch.linspace(-2, 2, 30)
    y = 0.2 - u + 0.5 * torch.randn(30, generator=torch.Generator().manual_seed(6))
    features = torch.stack([torch.ones(30), u], 1)
    variance = (features @ W_COVARIANCE * features).sum(1)
    exact = dist.Normal(features @ W_LOC, (0.25 + variance).sqrt()).log_prob(y).mean()
    found = pvae.log_predictive(regression, regression_guide, (u, y), 300 * effort)
    yield of_estimate("Bayesian regression", "log_predictive", found, exact)
    prior = dist.MultivariateNormal(torch.zeros(2), torch.eye(2))
    gap = torch.distributions.kl_divergence(dist.MultivariateNormal(W_LOC, W_COVARIANCE), prior)
    fits = dist.Normal(features @ W_LOC, 0.5).log_prob(y) - 0.5 * variance / 0.25
    found = pvae.elbo(regression, regression_guide, (u, y), 1000 * effort, data_size=SIZE)
    yield of_estimate("Bayesian regression", "elbo", found, fits.mean() - gap / SIZE)

    exact = dist.Normal(LOC, (2 + SCALE**2) ** 0.5).log_prob(x).mean()
    found = pvae.log_predictive(both, both_guide, x, 150 * effort, 300)
    yield of_estimate("global and local latents", "log_predictive", found, exact)

    w = torch.tensor([0.3, 0.7]).log()
    fits = torch.stack([dist.Normal(c, 1.04**0.5).log_prob(x) for c in (-1.5, 1.5)], 1)
    found = pvae.log_predictive(mixture, mixture_guide, x, 300 * effort)
    yield of_estimate("a global mixture", "log_predictive", found, (fits + w).logsumexp(1).mean())
