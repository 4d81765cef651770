"""Gradients are right under scales and masks, and wherever parameters are registered."""

import math

import pyro
import pyro.distributions as dist
import pyro.distributions.transforms as transforms
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import nn

from pvae import objectives
from pvae.objectives import IncompatibleObjectiveError


def mean_gradient(objective, model, guide, names, *, rows=40_000, x=1.3):
    """Mean gradients by name and their standard errors, over copies of one datum."""
    found = []
    for seed in range(8):
        pyro.set_rng_seed(seed)
        with poutine.trace(param_only=True) as seen:
            loss = objective.differentiable_loss(model, guide, torch.full((rows,), x))
        leaves = [seen.trace.nodes[name]["value"].unconstrained() for name in names]
        gradients = torch.autograd.grad(loss, leaves)
        found.append(torch.cat([g.reshape(-1) for g in gradients]) / rows)
    each = torch.stack(found)
    return each.mean(0), each.std(0) / math.sqrt(len(found))


def assert_same_gradient(one, other):
    scale = (one[1] ** 2 + other[1] ** 2).sqrt()
    assert (one[0] - other[0]).abs().le(5 * scale + 1e-5).all(), (one, other)


def bernoulli_under(handler):
    def model(x):
        with pyro.plate("data", len(x)), handler():
            z = pyro.sample("z", dist.Bernoulli(x.new_full((len(x),), 0.3)))
        with pyro.plate("rest", len(x)):
            pyro.sample("x", dist.Normal(2 * z, 1.0), obs=x)

    def guide(x):
        logit = pyro.param("logit", torch.tensor(0.2))
        with pyro.plate("data", len(x)), handler():
            pyro.sample("z", dist.Bernoulli(logits=logit.expand(len(x))))

    return model, guide


def exact_bernoulli(x, scale, particles):
    """Minus the derivative of the bound with respect to the logit, by enumeration."""
    logit = torch.tensor(0.2, requires_grad=True)
    states = torch.tensor([0.0, 1.0])
    q = dist.Bernoulli(logits=logit).log_prob(states)
    p = dist.Bernoulli(0.3).log_prob(states)
    weight = dist.Normal(2 * states, 1.0).log_prob(torch.tensor(x)) + scale * (p - q)
    bound = torch.zeros(())
    for tuple_ in torch.cartesian_prod(*[torch.arange(2)] * particles).reshape(-1, particles):
        mean = weight[tuple_].logsumexp(0) - math.log(particles)
        bound = bound + q[tuple_].sum().exp() * mean
    (gradient,) = torch.autograd.grad(-bound, logit)
    return gradient


@pytest.mark.parametrize("scale", [0.25, 1.0, 0.0])
def test_score_under_scale_or_mask(scale):
    handler = (
        (lambda: poutine.mask(mask=False)) if scale == 0 else lambda: poutine.scale(scale=scale)
    )
    model, guide = bernoulli_under(handler)
    for objective, particles in ((objectives.REINFORCE(2), 1), (objectives.VIMCO(3), 3)):
        got, error = mean_gradient(objective, model, guide, ["logit"])
        wanted = exact_bernoulli(1.3, scale, particles)
        assert abs(got - wanted) < 5 * error + 1e-5, (objective, got, wanted)
        assert error < 0.02 * abs(wanted)


def normal_under(handler):
    def model(x):
        with pyro.plate("data", len(x)):
            with handler():
                z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def guide(x):
        loc = pyro.param("loc", torch.tensor(0.3))
        log_scale = pyro.param("log_scale", torch.tensor(-0.7))
        with pyro.plate("data", len(x)), handler():
            pyro.sample("z", dist.Normal(loc.expand(len(x)), log_scale.exp()))

    return model, guide


@pytest.mark.parametrize("scale", [0.25, 2.0, 0.0])
def test_dreg_matches_iwae_under_scale_or_mask(scale):
    pair = normal_under(lambda: poutine.scale(scale=scale) if scale else poutine.mask(mask=False))
    names = ["loc", "log_scale"]
    assert_same_gradient(
        mean_gradient(objectives.DReG(4), *pair, names),
        mean_gradient(objectives.IWAE(4), *pair, names),
    )


class Whole(nn.Module):
    """A module that only the model registers."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(1, 2)
        self.decoder = nn.Linear(1, 1)

    def model(self, x):
        pyro.module("whole", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z)[..., 0], 0.5), obs=x)

    def guide(self, x):
        loc, log_scale = self.encoder(x[:, None]).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def test_model_network_constant_in_guide():
    torch.manual_seed(0)
    pair = Whole()
    names = ["whole$$$encoder.bias", "whole$$$decoder.bias"]
    iwae = mean_gradient(objectives.IWAE(4), pair.model, pair.guide, names)
    assert_same_gradient(mean_gradient(objectives.DReG(4), pair.model, pair.guide, names), iwae)


def test_shared_parameters():
    torch.manual_seed(0)
    pair = Whole()

    def guide(x):
        pyro.module("whole", pair)
        pair.guide(x)

    assert objectives.WakeSleep().loss(pair.model, guide, torch.randn(5)) > 0

    def tied(x):
        loc = x[:, None] @ pair.decoder.weight
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))

    with pytest.raises(IncompatibleObjectiveError, match=r"share parameters .*decoder\.weight"):
        objectives.WakeSleep().loss(pair.model, tied, torch.randn(5))


def flow_pair(make):
    encoder, flow = nn.Linear(1, 2), make()

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 0.5), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        pyro.module("flow", flow)
        with pyro.plate("data", len(x)):
            base = dist.Normal(encoder(x[:, None]), 1.0).to_event(1)
            pyro.sample("z", dist.TransformedDistribution(base, [flow]))

    return model, guide


def test_networks_in_log_prob_held_constant():
    torch.manual_seed(0)
    pair = flow_pair(lambda: transforms.affine_coupling(2, hidden_dims=[8]))
    names = ["flow$$$nn.layers.1.bias", "encoder$$$bias"]
    assert_same_gradient(
        mean_gradient(objectives.DReG(3), *pair, names),
        mean_gradient(objectives.IWAE(3), *pair, names),
    )


def test_flow_without_inverse():
    torch.manual_seed(0)
    pair = flow_pair(lambda: transforms.planar(2))
    x = torch.randn(6)
    wanted = sum(Trace_ELBO().loss(*pair, x) for _ in range(1000)) / 1000
    assert objectives.ELBO(1000).loss(*pair, x) == pytest.approx(wanted, rel=0.1)
    for objective in (
        objectives.STL(),
        objectives.DReG(3),
        objectives.RWS(3),
        objectives.WakeSleep(),
    ):
        with pytest.raises(IncompatibleObjectiveError, match="no inverse"):
            objective.loss(*pair, x)
