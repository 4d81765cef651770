"""Rows that depend on each other, and mistakes in networks and parameters."""

import pyro
import pyro.distributions as dist
import torch
from pairs.invalid import Pair, X, Z, data, normal, wrong
from pyro.nn import PyroModule
from torch import nn
from torch.nn.functional import softplus

# Rows that depend on each other


@wrong("error", r"terms of a datum at 'z' in the guide depend on other rows")
def centred_by_the_batch():
    pair = Pair()

    def guide(x):
        pyro.module("encoder", pair.encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", pair.posterior(x - x.mean(0)))  # here

    return pair.model, guide, data()


@wrong("error", r"terms of a datum at 'z' in the guide depend on other rows")
def softmax_over_the_batch():
    pair = Pair()

    def guide(x):
        pyro.module("encoder", pair.encoder)
        attention = (x @ x.T).softmax(-1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", pair.posterior(attention @ x))  # here

    return pair.model, guide, data()


@wrong("warning", r"through \S+\.0 \(BatchNorm1d\) in train mode.* is not a bound")
def batch_norm():
    pair = Pair()
    pair.encoder = nn.Sequential(nn.BatchNorm1d(X), nn.Linear(X, 2 * Z))

    def guide(x):
        pyro.module("encoder", pair.encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", pair.posterior(x))  # here

    return pair.model, guide, data()


# Parameters


@wrong(
    "error", r"no gradient for parameters 'encoder\.0\.weight'.* of the guide \(all that it has\)"
)
def encoder_under_no_grad():
    pair = Pair()

    def guide(x):
        pyro.module("encoder", pair.encoder)  # here
        with torch.no_grad():
            loc, raw = pair.encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, softplus(raw) + 0.1).to_event(1))

    return pair.model, guide, data()


@wrong("error", r"no gradient for parameters 'encoder\.0\.weight'.* and 2 more|all that it has")
def draw_that_is_not_used():
    """The decoder uses a fresh draw instead of z, so the likelihood does not depend on z."""
    pair = Pair()

    def guide(x):
        pyro.module("encoder", pair.encoder)  # here
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(pair.encoder(x)[:, :Z].detach(), 1.0).to_event(1))

    return pair.model, guide, data()


@wrong("warning", r"no gradient for parameters 'decoder\.unused\.weight'.* of the model")
def layer_that_is_never_called():
    pair = Pair()
    pair.decoder.add_module("unused", nn.Linear(3, 3))
    pair.decoder.forward = lambda z: pair.decoder[2](pair.decoder[1](pair.decoder[0](z)))

    def model(x):
        pyro.module("decoder", pair.decoder)  # here
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(Z))
            pyro.sample("x", dist.Normal(pair.decoder(z), 1.0).to_event(1), obs=x)

    return model, pair.guide, data()


@wrong("warning", "network 'decoder' is used but not passed to pyro.module: it is not trained")
def network_not_registered():
    pair, decoder = Pair(), nn.Linear(Z, X)
    encoder = pair.encoder

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(Z))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        loc, raw = encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, softplus(raw) + 1e-3).to_event(1))

    return model, guide, data(), {"line": None}


@wrong("warning", r"pyro.param\('scale'\) has an initial value in 2 places")
def one_name_for_two_parameters():
    pair = Pair()

    def model(x):
        pyro.module("decoder", pair.decoder)
        scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)  # here
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(Z))
            pyro.sample("x", dist.Normal(pair.decoder(z), scale).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", pair.encoder)
        scale = pyro.param("scale", torch.tensor(0.1), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(pair.encoder(x)[:, :Z], scale).to_event(1))

    return model, guide, data()


@wrong("warning", r"pyro.module\('net'\) is given two networks, a Sequential and a Sequential")
def one_name_for_two_networks():
    pair = Pair()

    def model(x):
        pyro.module("net", pair.decoder)  # here
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(Z))
            pyro.sample("x", dist.Normal(pair.decoder(z), 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("net", pair.encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", pair.posterior(x))

    return model, guide, data()


@wrong("error", r"are frozen \(requires_grad=False\), but Pyro makes every parameter")
def frozen_network_in_a_pyro_module():
    class Model(PyroModule):
        def __init__(self):
            super().__init__()
            self.decoder = PyroModule[nn.Linear](Z, X)
            self.scale = nn.Parameter(torch.ones(()))
            for parameter in self.decoder.parameters():
                parameter.requires_grad_(False)

        def forward(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", normal(Z))
                loc = self.decoder(z)
                pyro.sample("x", dist.Normal(loc, softplus(self.scale)).to_event(1), obs=x)

    return (
        Model(),
        Pair().guide,
        data(),
        {"line": (frozen_network_in_a_pyro_module, "loc = self.decoder(z)")},
    )
