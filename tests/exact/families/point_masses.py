"""Guides with point masses: functions of other draws, of parameters, and of auxiliary sites."""

from collections.abc import Iterator

import pyro
import pyro.distributions as dist
import torch
from exact.case import Row, importance_weighted, of_estimate, of_objective
from exact.small_pairs import normal

import pvae
from pvae.objectives import ELBO, IWAE, STL, DReG

X, ZERO = 1.3, torch.tensor(0.0).double()


def shifted():
    """v is a point mass whose place depends on a draw and on parameters; z2 depends on it."""

    def model(x):
        with pyro.plate("data", len(x)):
            z1, v, z2 = (
                pyro.sample(n, dist.Normal(x.new_zeros(len(x)), 1.0)) for n in ("z1", "v", "z2")
            )
            pyro.sample("x", dist.Normal(z1 + 0.5 * v + z2, 1.0), obs=x)

    def guide(x):
        a, b, c, d, f, g = (pyro.param(name) for name in "abcdfg")
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(a.expand(len(x)), b.exp()))
            v = pyro.sample("v", dist.Delta(c + d * z1))
            pyro.sample("z2", dist.Normal(f * v, g.exp()))

    def log_weight(noise, at):
        z1 = at["a"] + at["b"].exp() * noise[:, 0]
        v = at["c"] + at["d"] * z1
        z2 = at["f"] * v + at["g"].exp() * noise[:, 1]
        joint = sum(normal(value, ZERO, ZERO) for value in (z1, v, z2, X - z1 - 0.5 * v - z2))
        return joint - normal(z1, at["a"], at["b"]) - normal(z2, at["f"] * v, at["g"])

    start = {"a": 0.2, "b": -0.5, "c": 0.3, "d": 0.4, "f": 0.6, "g": -0.3}
    return (model, guide), log_weight, start


def transformed():
    """z is computed from an auxiliary site, with its density, as in autoguides."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.LogNormal(x.new_zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        a, s = pyro.param("a"), pyro.param("s")
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", dist.Normal(a.expand(len(x)), 0.6), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Delta((s * u).exp(), log_density=-s * u - s.log()))

    def log_weight(noise, at):
        scale = torch.tensor(0.6).double().log()
        u = at["a"] + 0.6 * noise[:, 0]
        y = at["s"] * u
        prior = normal(y, ZERO, ZERO) - y
        log_q = normal(u, at["a"], scale) - y - at["s"].log()
        return prior + normal(torch.tensor(X), y.exp(), ZERO) - log_q

    return (model, guide), log_weight, {"a": 0.1, "s": 0.8}


def point():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(0.5 * x))

    return model, guide


def rows(effort: int) -> Iterator[Row]:
    for name, (programs, log_weight, start), dims in (
        ("a point mass between draws", shifted(), 2),
        ("a transformed auxiliary site", transformed(), 1),
    ):
        nodes = 14 if dims == 2 else 40

        def bound(at, k, log_weight=log_weight, dims=dims, nodes=nodes):
            return importance_weighted(lambda noise: log_weight(noise, at), dims, k, nodes)

        for objective in (ELBO(1), STL(1), STL(2), IWAE(2), DReG(1), DReG(2)):
            k = objective.num_particles if isinstance(objective, IWAE | DReG) else 1
            yield from of_objective(
                name, objective, programs, (X,), start, lambda at, k=k: bound(at, k),
                repeats=32 * effort,
            )  # fmt: skip
    programs, log_weight, start = transformed()
    at = {key: torch.tensor(value).double() for key, value in start.items()}
    with pyro.get_param_store().scope():
        for key, value in start.items():
            pyro.param(key, torch.tensor(value))
        x = torch.full((20,), X)
        name = "a transformed auxiliary site"
        exact = importance_weighted(lambda noise: log_weight(noise, at), 1, 1, 100)
        yield of_estimate(name, "elbo", pvae.elbo(*programs, x, 1000 * effort), exact)
        evidence = _evidence()
        found = pvae.log_likelihood(*programs, x, 5000 * effort)
        yield of_estimate(name, "log_likelihood", found, evidence)
    found = pvae.elbo(*point(), torch.tensor([X]), 10)
    joint = (normal(torch.tensor(X / 2), ZERO, ZERO) * 2).item()
    x = torch.linspace(-2, 2, 30)
    name, model = "an auxiliary site that is noise", point()[0]
    spread = 0.6**2 + 0.7**2
    gap = 0.5 * ((0.5 * x).square() + spread - 1) - torch.tensor(0.7).log()
    fits = dist.Normal(0.5 * x, 1.0).log_prob(x) - 0.5 * spread
    exact = (fits - gap).mean()  # of the bound given u, on average over u
    yield of_estimate(name, "elbo", pvae.elbo(model, noisy, x, 1000 * effort), exact)
    evidence = dist.Normal(0.0, 2**0.5).log_prob(x).mean()
    of_noisy = pvae.log_likelihood(model, noisy, x, 2000 * effort)
    yield of_estimate(name, "log_likelihood", of_noisy, evidence)
    yield Row("a point guide", found.quantity, found.mean, joint, 0.0)


def _evidence() -> float:
    z = torch.linspace(1e-6, 12, 400_001, dtype=torch.float64)
    joint = dist.LogNormal(ZERO, 1.0).log_prob(z) + normal(torch.tensor(X), z, ZERO)
    return torch.trapezoid(joint.exp(), z).log().item()


def noisy(x):
    """A guide with an auxiliary site, from which no site of the model is computed."""
    with pyro.plate("data", len(x)):
        u = pyro.sample("u", dist.Normal(x.new_zeros(len(x)), 0.6), infer={"is_auxiliary": True})
        pyro.sample("z", dist.Normal(0.5 * x + u, 0.7))
