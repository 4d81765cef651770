"""Discrete sites that only the model has: summed out, or drawn from their prior."""

from collections.abc import Iterator

import pyro
import pyro.distributions as dist
import torch
from exact.case import Row, importance_weighted, of_estimate
from exact.small_pairs import normal
from pyro.infer import TraceEnum_ELBO

import pvae
from pvae.evaluation import information, kl_by_site

WEIGHTS = torch.tensor([0.3, 0.7])
LOCS = torch.tensor([-2.0, 2.0])
SLOPE, SCALE = 0.45, torch.tensor(0.8).double()
ZERO = torch.tensor(0.0).double()
X = torch.randn(30, generator=torch.Generator().manual_seed(3)) * 2


def prior(marked):
    """A mixture as the prior of z."""

    def model(x):
        with pyro.plate("data", len(x)):
            infer = {"enumerate": "parallel"} if marked else {}
            y = pyro.sample("y", dist.Categorical(WEIGHTS), infer=infer)
            z = pyro.sample("z", dist.Normal(LOCS[y], 0.5))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    return model, guide


def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(SLOPE * x, SCALE.float()))


def likelihood(x):
    """A mixture as the likelihood."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
        y = pyro.sample("y", dist.Categorical(WEIGHTS), infer={"enumerate": "parallel"})
        pyro.sample("x", dist.Normal(z + LOCS[y], 1.0), obs=x)


def both(x):
    """The class matters for z and for x, which share one term; and it has a class above it."""
    with pyro.plate("data", len(x)):
        top = pyro.sample("top", dist.Bernoulli(0.4), infer={"enumerate": "parallel"})
        weights = torch.stack([WEIGHTS, WEIGHTS.flip(0)])[top.long()]
        y = pyro.sample("y", dist.Categorical(weights), infer={"enumerate": "parallel"})
        z = pyro.sample("z", dist.Normal(LOCS[y], 0.5))
        pyro.sample("x", dist.Normal(z - 0.5 * LOCS[y], 1.0), obs=x)


def masked(x):
    """As `likelihood`, with a mask of some data, around the site that is summed out as well."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
        with pyro.poutine.mask(mask=x > 0):
            y = pyro.sample("y", dist.Categorical(WEIGHTS), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(z + LOCS[y], 1.0), obs=x)


def _mixture(value, locs, scale):
    """log sum_y p(y) N(value; locs_y, scale), with locs of shape (..., 2)."""
    terms = normal(value[..., None], locs, torch.tensor(scale).double().log())
    return (terms + WEIGHTS.double().log()).logsumexp(-1)


def _bound(log_p):
    """The mean of E_q[log_p(z, x) - log q(z | x)] over the data."""
    found = []
    for x in X.double():

        def weight(noise, x=x):
            z = SLOPE * x + SCALE * noise[:, 0]
            return log_p(z, x) - normal(z, SLOPE * x, SCALE.log())

        found.append(importance_weighted(weight, 1, 1, 60))
    return torch.stack(found).mean()


def _evidence(log_p):
    z = torch.linspace(-14, 14, 20_001).double()
    joint = torch.stack([log_p(z, x) for x in X.double()])
    return torch.trapezoid(joint.exp(), z).log().mean()


def _log_p():
    locs = LOCS.double()
    tops = torch.tensor([0.6, 0.4]).double() @ torch.stack([WEIGHTS, WEIGHTS.flip(0)]).double()

    def of_both(z, x):
        z, x = z[..., None], x[..., None] if x.dim() else x
        terms = normal(z, locs, torch.tensor(0.5).double().log()) + normal(x, z - 0.5 * locs, ZERO)
        return (terms + tops.log()).logsumexp(-1)

    return {
        "a mixture prior": (
            prior(True)[0],
            lambda z, x: _mixture(z, locs, 0.5) + normal(x, z, ZERO),
        ),
        "a mixture likelihood": (
            likelihood,
            lambda z, x: normal(z, ZERO, ZERO) + _mixture(x - z, locs, 1.0),
        ),
        "classes of classes": (both, of_both),
        "a mixture with a mask": (
            masked,
            lambda z, x: normal(z, ZERO, ZERO) + (x > 0) * _mixture(x - z, locs, 1.0),
        ),
    }


def rows(effort: int) -> Iterator[Row]:
    for name, (model, log_p) in _log_p().items():
        bound = _bound(log_p)
        yield of_estimate(name, "elbo", pvae.elbo(model, guide, X, 500 * effort), bound)
        found = pvae.log_likelihood(model, guide, X, 4000 * effort)
        yield of_estimate(name, "log_likelihood", found, _evidence(log_p))
        objective = TraceEnum_ELBO(max_plate_nesting=1)
        losses = torch.tensor([objective.loss(model, guide, X) / 30 for _ in range(400 * effort)])
        error = losses.std().item() / len(losses) ** 0.5
        yield Row(name, "Pyro's own bound", -losses.mean().item(), bound.item(), error)
    locs = LOCS.double()
    gap = -_bound(lambda z, x: _mixture(z, locs, 0.5))
    aggregated = _aggregated(lambda z: _mixture(z, locs, 0.5))
    for marked in (True, False):
        pair = prior(marked)
        name = f"a mixture prior, {'' if marked else 'not '}marked"
        found = kl_by_site(*pair, X, num_particles=400 * effort)["z"]
        yield of_estimate(name, "kl_by_site of z", found, gap)
        found = information(*pair, X, num_particles=400 * effort)
        yield of_estimate(name, "KL(q(z) || p(z))", found.aggregated, aggregated)
        yield of_estimate(name, "I(x; z)", found.mutual_information, gap - aggregated)
    unmarked = _bound(
        lambda z, x: (
            normal(x, z, ZERO)
            + (WEIGHTS.double() * normal(z[..., None], locs, torch.tensor(0.5).double().log())).sum(
                -1
            )
        )
    )
    found = pvae.elbo(*prior(False), X, 2000 * effort)
    yield of_estimate("a mixture prior, not marked", "elbo", found, unmarked)
    found = pvae.log_likelihood(*prior(False), X, 4000 * effort)
    exact = _evidence(lambda z, x: _mixture(z, locs, 0.5) + normal(x, z, ZERO))
    yield of_estimate("a mixture prior, not marked", "log_likelihood", found, exact)


def _aggregated(log_prior):
    """KL(q(z) || p(z)) of the mean of q(z | x) over the data."""
    z = torch.linspace(-12, 12, 20_001).double()
    log_q = (
        normal(z, SLOPE * X.double()[:, None], SCALE.log()).logsumexp(0) - torch.tensor(30.0).log()
    )
    return torch.trapezoid(log_q.exp() * (log_q - log_prior(z)), z)
