"""Scales that handlers give to single sites, to single data, and to minibatches."""

from collections.abc import Iterator

import pyro
import pyro.distributions as dist
import torch
from exact.case import Row, importance_weighted, of_objective
from exact.small_pairs import normal
from pyro import poutine

from pvae.objectives import ELBO, IWAE, STL, DReG

X, ZERO, N = 1.3, torch.tensor(0.0).double(), 1000


def minibatch(of_guide):
    """Log-probabilities are multiplied by N / len(x), as in Pyro's tutorials."""

    def model(x):
        slope = pyro.param("slope")
        with poutine.scale(scale=N / len(x)), pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(slope * z, 1.0), obs=x)

    def guide(x):
        loc = pyro.param("loc")
        if of_guide == "one batch size only":  # the particles of this guide need tiles
            loc = loc * torch.ones(x.shape)
        with poutine.scale(scale=N / len(x)), pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc.expand(len(x)), 0.7))

    return model, guide


def one_bound(noise, at):
    z = at["loc"] + 0.7 * noise[:, 0]
    log_q = normal(z, at["loc"], torch.tensor(0.7).double().log())
    return normal(z, ZERO, ZERO) + normal(torch.tensor(X), at["slope"] * z, ZERO) - log_q


def layers(scale, *, at_first=False):
    """Two dependent latents, of which one has a scale in both programs."""

    def scaled(first):
        return poutine.scale(scale=scale if first is at_first else 1.0)

    def model(x):
        with pyro.plate("data", len(x)):
            with scaled(True):
                z1 = pyro.sample("z1", dist.Normal(x.new_zeros(len(x)), 1.0))
            with scaled(False):
                z2 = pyro.sample("z2", dist.Normal(0.5 * z1, 1.0))
            pyro.sample("x", dist.Normal(z1 + z2, 1.0), obs=x)

    def guide(x):
        a, b, c, d = (pyro.param(name) for name in "abcd")
        with pyro.plate("data", len(x)):
            with scaled(True):
                z1 = pyro.sample("z1", dist.Normal(a.expand(len(x)), b.exp()))
            with scaled(False):
                pyro.sample("z2", dist.Normal(c * z1, d.exp()))

    def log_weight(noise, at):
        z1 = at["a"] + at["b"].exp() * noise[:, 0]
        z2 = at["c"] * z1 + at["d"].exp() * noise[:, 1]
        first = normal(z1, ZERO, ZERO) - normal(z1, at["a"], at["b"])
        second = normal(z2, 0.5 * z1, ZERO) - normal(z2, at["c"] * z1, at["d"])
        ratio = (scale if at_first else 1) * first + (1 if at_first else scale) * second
        return normal(torch.tensor(X), z1 + z2, ZERO) + ratio

    return (model, guide), log_weight, {"a": 0.2, "b": -0.5, "c": 0.8, "d": -0.3}


def weighted_data():
    """Each datum has a weight of its own, and latents have an event dimension."""

    def model(x, weight):
        with pyro.plate("data", len(x)), poutine.scale(scale=weight):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)

    def guide(x, weight):
        loc, log_scale = pyro.param("loc"), pyro.param("log_scale")
        with pyro.plate("data", len(x)), poutine.scale(scale=weight):
            pyro.sample("z", dist.Normal(loc.expand(len(x), 2), log_scale.exp()).to_event(1))

    def log_weight(noise, at):
        z = at["loc"] + at["log_scale"].exp() * noise
        ratio = (normal(z, ZERO, ZERO) - normal(z, at["loc"], at["log_scale"])).sum(-1)
        return 0.4 * (ratio + normal(torch.tensor(X), z.sum(-1), ZERO))

    return (model, guide), log_weight, {"loc": [0.2, -0.1], "log_scale": -0.4}


def rows(effort: int) -> Iterator[Row]:
    size = 500
    for kind in ("any batch size", "one batch size only"):
        for particles in (1, 2, 8):
            yield from of_objective(
                f"N / len(x) as a scale, guide of {kind}", ELBO(particles), minibatch(kind), (X,),
                {"loc": 0.3, "slope": 0.8},
                lambda at: N / size * importance_weighted(lambda n: one_bound(n, at), 1, 1, 40),
                rows=size, repeats=64 * effort,
            )  # fmt: skip
    for name, (programs, log_weight, start) in {
        "a scale at the second of two layers": layers(0.3),
        "a scale at the first of two layers": layers(0.3, at_first=True),
        "a scale of 2 at the second layer": layers(2.0),
    }.items():
        for objective in (ELBO(1), STL(1), IWAE(2), DReG(1), DReG(2)):
            k = objective.num_particles
            yield from of_objective(
                name, objective, programs, (X,), start,
                lambda at, k=k, w=log_weight: importance_weighted(lambda n: w(n, at), 2, k, 14),
                repeats=32 * effort,
            )  # fmt: skip
    programs, log_weight, start = weighted_data()
    for objective in (ELBO(1), IWAE(2), DReG(2)):
        k = objective.num_particles
        yield from of_objective(
            "a weight for each datum", objective, programs, (X, 0.4), start,
            lambda at, k=k: importance_weighted(lambda n: log_weight(n, at), 2, k, 14),
            repeats=32 * effort,
        )  # fmt: skip
