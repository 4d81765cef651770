"""Draws of the guide at which p(x, z) is zero."""

from collections.abc import Iterator

import pyro
import pyro.distributions as dist
import torch
from exact.case import Row, of_estimate
from torch.nn.functional import logsigmoid

import pvae
from pvae.objectives import RWS, VIMCO

X = 0.4


def bit():
    """p(x | z = 0) is zero at the datum."""

    def model(x):
        slope = pyro.param("slope")
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(logits=(0.7 * slope).expand(len(x))))
            pyro.sample("x", dist.Uniform(0.9 * (1 - z), 1.0, validate_args=False), obs=x)

    def guide(x):
        logit = pyro.param("logit")
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=logit.expand(len(x))))

    return model, guide


def rows(effort: int) -> Iterator[Row]:
    name, start = "a value of z with p(x | z) = 0", {"logit": 1.2, "slope": 0.9}
    programs = bit()
    x = torch.full((50,), X)
    with pyro.get_param_store().scope():
        for key, value in start.items():
            pyro.param(key, torch.tensor(value))
        exact = logsigmoid(torch.tensor(0.63)).item()
        found = pvae.log_likelihood(*programs, x, 1000 * effort)
        yield of_estimate(name, "log_likelihood", found, exact)
    yield from _of_the_gradients(name, VIMCO(8), "VIMCO(8)", effort)
    yield from _of_the_gradients(name, RWS(8), "RWS(8)", effort)


def _of_the_gradients(name, objective, quantity, effort) -> Iterator[Row]:
    """The bound is -infinity, with a small probability; given that it is not, gradients are known.

    A batch has copies of one datum, whose draws are independent. VIMCO's baseline of 0, where all
    other particles are impossible, keeps its gradient finite.
    """
    programs, start = bit(), {"logit": 1.2, "slope": 0.9}
    finite = []
    with pyro.get_param_store().scope():
        for key, value in start.items():
            pyro.param(key, torch.tensor(value))
        leaves = [pyro.param(key).unconstrained() for key in start]
        for _ in range(50 * effort):
            loss = objective.differentiable_loss(*programs, torch.full((20,), X))
            given = torch.autograd.grad(loss, leaves)
            if torch.isfinite(loss):
                finite.append(torch.stack(given) / 20)
    each = torch.stack(finite).double()
    # d log p(z = 1) / d slope, whatever the number of particles with z = 1.
    exact = -0.7 * torch.sigmoid(torch.tensor(-0.63)).item()
    mean, error = each[:, 1].mean().item(), each[:, 1].std().item() / len(each) ** 0.5
    yield Row(name, f"{quantity} d/dslope", mean, exact, error)
