"""Diverse pairs for comparing recorded steps with Pyro's."""

import pyro
import pyro.distributions as dist
import torch
from pairs import callables as kinds
from pyro import poutine
from pyro.distributions.transforms import affine_autoregressive
from pyro.infer import Trace_ELBO
from torch import nn

import pvae


def linear(*sizes):
    return nn.Linear(*sizes)


def several_plates():
    net, rate = linear(3, 3), linear(3, 3)

    def model(x):
        pyro.module("net", net)
        with pyro.plate("columns", 3, dim=-1):
            w = pyro.sample("w", dist.Normal(0.0, 1.0))
            with pyro.plate("data", len(x), dim=-2):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(net(z) * w, 1.0), obs=x)

    def guide(x):
        pyro.module("rate", rate)
        loc = pyro.param("loc", torch.zeros(3))
        with pyro.plate("columns", 3, dim=-1):
            pyro.sample("w", dist.Normal(loc, 0.3))
            with pyro.plate("data", len(x), dim=-2):
                pyro.sample("z", dist.Normal(rate(x), 0.5))

    return model, guide


def masked():
    model, guide = kinds.functions()

    def half(program):
        def run(x):
            with poutine.mask(mask=x[:, 0] > 0.5):
                program(x)

        return run

    return half(model), half(guide)


def subsampled():
    decoder, encoder = linear(2, 3), linear(3, 2)

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", 1000, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", 1000, subsample_size=len(x)):
            pyro.sample("z", dist.Normal(encoder(x), 0.5).to_event(1))

    return model, guide


def hierarchy(kind):
    up1, up2, down1, down2 = linear(3, 4), linear(4, 2), linear(2, 4), linear(4, 3)

    def layer(name, value, size):
        if kind == "bernoulli":
            return pyro.sample(name, dist.Bernoulli(logits=value).to_event(1))
        return pyro.sample(name, dist.Normal(value, 0.7).to_event(1))

    def model(x):
        for name, net in (("down1", down1), ("down2", down2)):
            pyro.module(name, net)
        with pyro.plate("data", len(x)):
            z2 = layer("z2", x.new_zeros(len(x), 2), 2)
            z1 = layer("z1", down1(z2), 4)
            pyro.sample("x", dist.Normal(down2(z1), 1.0).to_event(1), obs=x)

    def guide(x):
        for name, net in (("up1", up1), ("up2", up2)):
            pyro.module(name, net)
        with pyro.plate("data", len(x)):
            z1 = layer("z1", up1(x), 4)
            layer("z2", up2(z1), 2)

    return model, guide


def constrained_globals():
    def model(x):
        low = pyro.param("low", torch.tensor(0.5), constraint=dist.constraints.positive)
        weights = pyro.param("weights", torch.ones(3) / 3, constraint=dist.constraints.simplex)
        scale = pyro.sample("scale", dist.Gamma(2.0, low))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(weights, scale).to_event(1), obs=x)

    def guide(x):
        loc = pyro.param("loc", torch.zeros(()))
        spread = pyro.param(
            "spread", torch.tensor(0.3), constraint=dist.constraints.interval(0.01, 1.0)
        )
        pyro.sample("scale", dist.LogNormal(loc, spread))

    return model, guide


def flow():
    transform, encoder, decoder = affine_autoregressive(2, [4]), linear(3, 2), linear(2, 3)

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        pyro.module("flow", transform)
        base = dist.Normal(encoder(x), 0.5).to_event(1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.TransformedDistribution(base, [transform]))

    return model, guide


def markov():
    step, emit, back = linear(2, 2), linear(2, 1), linear(1, 2)

    def model(x):
        for name, net in (("step", step), ("emit", emit)):
            pyro.module(name, net)
        with pyro.plate("data", len(x)):
            z = x.new_zeros(len(x), 2)
            for t in range(3):
                z = pyro.sample(f"z{t}", dist.Normal(step(z), 0.5).to_event(1))
                pyro.sample(f"x{t}", dist.Normal(emit(z), 0.5).to_event(1), obs=x[:, t : t + 1])

    def guide(x):
        pyro.module("back", back)
        with pyro.plate("data", len(x)):
            for t in range(3):
                pyro.sample(f"z{t}", dist.Normal(back(x[:, t : t + 1]), 0.5).to_event(1))

    return model, guide


PAIRS = {
    **kinds.KINDS,
    "several plates": several_plates,
    "masked": masked,
    "subsampled": subsampled,
    "bernoulli hierarchy": lambda: hierarchy("bernoulli"),
    "gaussian hierarchy": lambda: hierarchy("gaussian"),
    "constrained globals": constrained_globals,
    "flow": flow,
    "markov": markov,
}


class Changing(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = linear(3, 3)
        self.factor = 1.0
        self.deep = False
        self.extra = []
        self.options = {"a": {"b": {"c": {"d": {"factor": 1.0}}}}}  # deeper than keys describe
        self.dropout = nn.Dropout(0.5)

    def hidden(self):
        return self.options["a"]["b"]["c"]["d"]

    def model(self, x):
        pyro.module("net", self.net)
        loc = self.net(self.dropout(x)) * self.factor * self.hidden()["factor"]
        if self.deep:
            loc = loc.tanh()
        for shift in self.extra:
            loc = loc + shift
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(self, x):
        pass


def make_changing():
    pair = Changing()
    return pair.model, pair.guide


X = kinds.toy_data(96)
BATCHES = [X[:32], X[32:64], X[64:88], X[8:40]]  # alternating sizes


def run(make, engine, steps, *, rate=1e-4, objective=None, change=None):
    """Losses, parameters and buffers after SGD steps, with fixed initial values and seed."""
    pyro.set_rng_seed(1)
    with pyro.get_param_store().scope():
        model, guide = make()
        optim = pyro.optim.SGD({"lr": rate})
        loss = Trace_ELBO() if objective is None else objective()
        if engine is None:
            svi = pyro.infer.SVI(model, guide, optim, loss)
        else:
            svi = pvae.SVI(model, guide, optim, loss, engine=engine)
        pyro.set_rng_seed(2)
        losses = []
        for number in range(steps):
            if change is not None:
                change(number, model, guide)
            losses.append(svi.step(BATCHES[number % len(BATCHES)]))
        store = {k: v.detach().clone() for k, v in pyro.get_param_store()._params.items()}
        networks = [n for _, n in pvae.pair.discovery.reach({"m": model, "g": guide}, nn.Module)]
        buffers = [b.clone() for network in networks for b in network.buffers()]
    return losses, store, buffers, svi


def assert_same(got, wanted, tolerance):
    torch.testing.assert_close(
        torch.tensor(got[0]), torch.tensor(wanted[0]), rtol=tolerance, atol=tolerance
    )
    assert got[1].keys() == wanted[1].keys()
    for name, value in wanted[1].items():
        torch.testing.assert_close(got[1][name], value, rtol=tolerance, atol=tolerance)
    for a, b in zip(got[2], wanted[2], strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
