"""Masks of distributions and of handlers, in one program or both, at one site or all."""

from collections.abc import Iterator

import pyro
import pyro.distributions as dist
import torch
from exact.case import Row, importance_weighted, of_estimate, of_objective
from exact.small_pairs import normal
from torch.nn.functional import logsigmoid

import pvae
from pvae.evaluation import kl_by_site
from pvae.objectives import ELBO, IWAE, REINFORCE, STL, VIMCO, DReG

X, ZERO = 1.3, torch.tensor(0.0).double()


def bit(masked):
    """A latent bit that is drawn, and counts in the likelihood, but not in the divergence."""

    def latent(rows, logit):
        fn = dist.Bernoulli(logits=torch.as_tensor(logit).expand(rows))
        return fn.mask(torch.zeros(rows).bool()) if masked == "by the distribution" else fn

    def handler():
        return pyro.poutine.mask(mask=torch.tensor(masked != "by a handler"))

    def model(x):
        slope = pyro.param("slope")
        with pyro.plate("data", len(x)):
            with handler():
                z = pyro.sample("z", latent(len(x), -0.8))
            pyro.sample("x", dist.Normal(slope * z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)), handler():
            pyro.sample("z", latent(len(x), pyro.param("logit")))

    return model, guide


def expected_likelihood(at, particles):
    """E log mean_k p(x | z_k), by enumeration of all draws."""
    bits = torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * particles)
    bits = bits.reshape(-1, particles)
    log_q = logsigmoid((2 * bits - 1) * at["logit"]).sum(-1)
    fits = normal(torch.tensor(X), at["slope"] * bits, ZERO)
    return (log_q.exp() * (fits.logsumexp(-1) - torch.tensor(particles).log())).sum()


def layers(first, second):
    """Two dependent latents with masks by their distributions, the same in both programs."""

    def masked(fn, keep):
        return fn if keep is None else fn.mask(torch.tensor(keep))

    def model(x):
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", masked(dist.Normal(x.new_zeros(len(x)), 1.0), first))
            z2 = pyro.sample("z2", masked(dist.Normal(0.5 * z1, 1.0), second))
            pyro.sample("x", dist.Normal(z1 + z2, 1.0), obs=x)

    def guide(x):
        a, b, c, d = (pyro.param(name) for name in "abcd")
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", masked(dist.Normal(a.expand(len(x)), b.exp()), first))
            pyro.sample("z2", masked(dist.Normal(c * z1, d.exp()), second))

    def log_weight(noise, at):
        z1 = at["a"] + at["b"].exp() * noise[:, 0]
        z2 = at["c"] * z1 + at["d"].exp() * noise[:, 1]
        value = normal(torch.tensor(X), z1 + z2, ZERO)
        if first is not False:
            value = value + normal(z1, ZERO, ZERO) - normal(z1, at["a"], at["b"])
        if second is not False:
            value = value + normal(z2, 0.5 * z1, ZERO) - normal(z2, at["c"] * z1, at["d"])
        return value

    return (model, guide), log_weight, {"a": 0.2, "b": -0.5, "c": 0.8, "d": -0.3}


def different(how):
    """The guide's density counts, and the prior's does not."""

    def off(fn):
        return fn.mask(torch.zeros(fn.batch_shape).bool()) if how == "distribution" else fn

    def on(fn):
        return fn.mask(torch.ones(fn.batch_shape).bool()) if how == "distribution" else fn

    def model(x):
        with pyro.plate("data", len(x)):
            with pyro.poutine.mask(mask=torch.tensor(how == "distribution")):
                z = pyro.sample("z", off(dist.Normal(x.new_zeros(len(x)), 1.0)))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        a, b = pyro.param("a"), pyro.param("b")
        with pyro.plate("data", len(x)), pyro.poutine.mask(mask=torch.tensor(True)):
            pyro.sample("z", on(dist.Normal(a.expand(len(x)), b.exp())))

    def bound(at):
        def weight(noise):
            z = at["a"] + at["b"].exp() * noise[:, 0]
            return normal(torch.tensor(X), z, ZERO) - normal(z, at["a"], at["b"])

        return importance_weighted(weight, 1, 1, 40)

    return (model, guide), bound, {"a": 0.2, "b": -0.5}


def rows(effort: int) -> Iterator[Row]:
    for masked in ("by the distribution", "by a handler"):
        for objective in (REINFORCE(1, baseline="none"), REINFORCE(3), VIMCO(2), VIMCO(3)):
            k = objective.num_particles if isinstance(objective, VIMCO) else 1
            yield from of_objective(
                f"a latent bit, masked {masked}", objective, bit(masked), (X,),
                {"logit": 0.4, "slope": 2.0}, lambda at, k=k: expected_likelihood(at, k),
                repeats=32 * effort,
            )  # fmt: skip
    for name, (programs, log_weight, start) in {
        "the second of two layers masked": layers(None, False),
        "the first of two layers masked": layers(False, True),
    }.items():
        for objective in (STL(1), IWAE(2), DReG(2)):
            k = objective.num_particles
            yield from of_objective(
                name, objective, programs, (X,), start,
                lambda at, k=k, w=log_weight: importance_weighted(lambda n: w(n, at), 2, k, 14),
                repeats=32 * effort,
            )  # fmt: skip
    for how in ("distribution", "handler"):
        programs, bound, start = different(how)
        name = f"masks of {how}s that differ"
        for objective in (ELBO(1), ELBO(1, kl="analytic"), ELBO(2, kl="analytic")):
            yield from of_objective(
                name, objective, programs, (X,), start, bound,
                name=f"ELBO({objective.num_particles}, {objective.kl})", repeats=32 * effort,
            )  # fmt: skip
        with pyro.get_param_store().scope():
            for key, value in start.items():
                pyro.param(key, torch.tensor(value))
            x = torch.full((50,), X)
            negative_entropy = -0.5 * (1 + torch.tensor(2 * torch.pi).log()) - start["b"]
            found = kl_by_site(*programs, x, num_particles=400 * effort)["z"]
            yield of_estimate(name, "kl_by_site of z", found, negative_entropy)
            at = {key: torch.tensor(value).double() for key, value in start.items()}
            found = pvae.elbo(*programs, x, 400 * effort)
            yield of_estimate(name, "elbo", found, bound(at))
