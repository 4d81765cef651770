"""Encoders that search does not find, and that add noise of their own."""

from collections.abc import Iterator

import pyro
import pyro.distributions as dist
import torch
from exact.case import Row, importance_weighted, of_estimate
from exact.small_pairs import normal

import pvae
from pvae.evaluation import kl_by_site
from pvae.objectives import IWAE, STL, DReG

X, ZERO = 1.3, torch.tensor(0.0).double()


START = {"loc": 0.3, "log_scale": -0.5}
REGISTRY: dict[str, torch.Tensor] = {}


def _leaf(name: str) -> torch.Tensor:
    return globals()["REG" + "ISTRY"][name]  # named in a way that no search follows


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def unregistered(x):
    with pyro.plate("data", len(x)):
        scale = _leaf("log_scale").exp()
        pyro.sample("z", dist.Normal(_leaf("loc").expand(len(x)), scale))


def noisy(x):
    """The mean of q depends on noise that is no site."""
    with pyro.plate("data", len(x)):
        loc = 0.4 * x + 0.6 * torch.randn(x.shape)
        pyro.sample("z", dist.Normal(loc, 0.5))


def rows(effort: int) -> Iterator[Row]:
    def log_weight(noise, at):
        z = at["loc"] + at["log_scale"].exp() * noise[:, 0]
        joint = normal(z, ZERO, ZERO) + normal(torch.tensor(X), z, ZERO)
        return joint - normal(z, at["loc"], at["log_scale"])

    for objective in (STL(1), IWAE(2), DReG(2), DReG(3)):
        k = objective.num_particles
        yield from _of_unregistered(objective, log_weight, k, effort)
    x = torch.linspace(-2, 2, 40)
    scale = torch.tensor(0.5)
    loc = (0.4 * x).square() + 0.36
    exact = (0.5 * (loc + scale**2 - 1) - scale.log()).mean()
    found = kl_by_site(model, noisy, x, num_particles=200 * effort)["z"]
    yield of_estimate("an encoder with noise", "kl_by_site of z", found, exact)
    fits = dist.Normal(0.0, 1.0).log_prob(torch.zeros(())) - 0.5 * (
        (x - 0.4 * x) ** 2 + 0.36 + 0.25
    )
    found = pvae.elbo(model, noisy, x, 1000 * effort)
    yield of_estimate("an encoder with noise", "elbo", found, fits.mean() - exact)


def _of_unregistered(objective, log_weight, k, effort) -> Iterator[Row]:
    leaves = {key: torch.tensor(value, requires_grad=True) for key, value in START.items()}
    REGISTRY.update(leaves)
    at = {key: torch.tensor(value).double().requires_grad_() for key, value in START.items()}
    value = -importance_weighted(lambda noise: log_weight(noise, at), 1, k, 40 if k < 3 else 24)
    exact = torch.autograd.grad(value, list(at.values()))
    found = []
    for _ in range(32 * effort):
        loss = objective.differentiable_loss(model, unregistered, torch.full((4000,), X))
        found.append(torch.stack(torch.autograd.grad(loss, list(leaves.values()))) / 4000)
    each = torch.stack(found).double()
    name = f"{type(objective).__name__}({objective.num_particles})"
    for i, key in enumerate(START):
        mean, error = each[:, i].mean().item(), each[:, i].std().item() / len(each) ** 0.5
        yield Row("parameters out of sight", f"{name} d/d{key}", mean, exact[i].item(), error)
