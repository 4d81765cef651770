"""Unusual but correct pairs, in which a check must find nothing.

Each function returns a model, a guide and a batch, and an objective if it matters. The file is one
long list.
"""

import pyro
import pyro.distributions as dist
import torch
from pairs.invalid import Pair, data, normal
from pairs.recordable import (
    X,
    constrained_globals,
    flow,
    hierarchy,
    markov,
    several_plates,
    subsampled,
)
from pyro import poutine
from pyro.distributions.transforms import conditional_affine_autoregressive
from pyro.infer import TraceEnum_ELBO, config_enumerate
from pyro.infer.autoguide import AutoDelta, AutoNormal
from pyro.nn import PyroModule, PyroSample
from torch import nn
from torch.nn.functional import softplus

BATCH = X[:24]


def masked_data():
    pair = Pair()

    def model(x):
        pyro.module("decoder", pair.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(2))
            seen = x > -1
            with poutine.mask(mask=seen.all(-1)):
                pyro.sample("x", dist.Normal(pair.decoder(z), 1.0).to_event(1), obs=x)

    return model, pair.guide, data()


def annealed():
    pair, beta = Pair(), torch.tensor(0.3)

    def model(x):
        pyro.module("decoder", pair.decoder)
        with pyro.plate("data", len(x)):
            with poutine.scale(scale=beta):
                z = pyro.sample("z", normal(2))
            pyro.sample("x", dist.Normal(pair.decoder(z), 1.0).to_event(1), obs=x)

    def guide(x):
        with poutine.scale(scale=beta):
            pair.guide(x)

    return model, guide, data()


def layer_norm_and_frozen_features():
    pair, features = Pair(), nn.Linear(6, 6)
    features.requires_grad_(False)
    pair.encoder = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 4), nn.Dropout(0.2))

    def guide(x):
        pyro.module("encoder", pair.encoder)
        with torch.no_grad():
            known = features(x)
        with pyro.plate("data", len(x)):
            pyro.sample("z", pair.posterior(known))

    return pair.model, guide, data()


def likelihood_by_a_factor():
    pair = Pair()

    def model(x):
        pyro.module("decoder", pair.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(2))
            pyro.factor("x", -(pair.decoder(z) - x).abs().sum(-1))

    return model, pair.guide, data()


def mixture_summed_out():
    locs = torch.tensor([-1.0, 1.0])

    @config_enumerate
    def model(x):
        loc = pyro.param("loc", locs)
        weights = pyro.param("weights", torch.ones(2) / 2, constraint=dist.constraints.simplex)
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(loc[y], 1.0), obs=x)

    return model, lambda x: None, data(30), {"objective": TraceEnum_ELBO(max_plate_nesting=1)}


def bayesian_weights_in_a_pyro_module():
    class Regression(PyroModule):
        def __init__(self):
            super().__init__()
            self.linear = PyroModule[nn.Linear](6, 1)
            self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 6]).to_event(2))
            self.linear.bias = PyroSample(dist.Normal(0.0, 1.0).expand([1]).to_event(1))

        def forward(self, x, y):
            loc = self.linear(x).squeeze(-1)
            with pyro.plate("data", len(x)):
                pyro.sample("y", dist.Normal(loc, 0.5), obs=y)

    model = Regression()
    guide = AutoNormal(model)
    guide(data(), data(12, seed=1))
    return model, guide, (data(), data(12, seed=1))


def maximum_a_posteriori():
    def model(x):
        loc = pyro.sample("loc", normal(6))
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, scale).to_event(1), obs=x)

    guide = AutoDelta(model)
    guide(data())
    return model, guide, data()


def positive_latents():
    pair = Pair()

    def model(x):
        pyro.module("decoder", pair.decoder)
        with pyro.plate("data", len(x)):
            rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
            share = pyro.sample("share", dist.Beta(1.0, 1.0))
            loc = pair.decoder(torch.stack([rate, share], -1))
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", pair.encoder)
        a, b, c, d = softplus(pair.encoder(x)).add(0.1).unbind(-1)
        with pyro.plate("data", len(x)):
            pyro.sample("rate", dist.Gamma(a, b))
            pyro.sample("share", dist.Beta(c, d))

    return model, guide, data()


def auxiliary_and_deterministic_sites():
    pair = Pair()

    def model(x):
        pyro.module("decoder", pair.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(2))
            loc = pyro.deterministic("loc", pair.decoder(z), event_dim=1)
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", pair.encoder)
        loc, raw = pair.encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            noise = pyro.sample("noise", normal(2), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Normal(loc + 0.1 * noise, softplus(raw)).to_event(1))

    return model, guide, data()


def one_datum_after_another():
    def model(x):
        loc = pyro.param("loc", torch.zeros(6))
        for i in pyro.plate("data", len(x)):
            pyro.sample(f"x_{i}", dist.Normal(loc, 1.0).to_event(1), obs=x[i])

    return model, lambda x: None, data()


def rows_of_parameters_looked_up():
    pair = Pair()

    decoder = pair.decoder

    def model(x, index):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(2))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def guide(x, index):
        loc = pyro.param("loc", 0.1 * data(100, 2))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc[index], 0.5).to_event(1))

    return model, guide, (data(), torch.arange(30, 42))


def labels_as_an_argument():
    pair, embed = Pair(), nn.Embedding(10, 6)

    def model(x, y):
        pyro.module("embed", embed)
        pyro.module("decoder", pair.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(2))
            loc = pair.decoder(z) + embed(y)
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    return model, lambda x, y: pair.guide(x), (data(), torch.arange(12) % 10)


def conditional_flow():
    """Noise with one distribution for all data, and a transform that depends on the datum."""
    pair, flow = Pair(), conditional_affine_autoregressive(2, 6, hidden_dims=[8])

    def guide(x):
        pyro.module("flow", flow)
        base = dist.Normal(torch.zeros(2), 1.0).to_event(1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.TransformedDistribution(base, [flow.condition(x)]))

    model = pair.model
    pair.encoder = None
    return model, guide, data()


def rows_that_the_program_picks():
    pair = Pair()

    def model(x):
        pyro.module("decoder", pair.decoder)
        with pyro.plate("data", 12, subsample_size=11) as index:
            z = pyro.sample("z", normal(2))
            pyro.sample("x", dist.Normal(pair.decoder(z), 1.0).to_event(1), obs=x[index])

    def guide(x):
        pyro.module("encoder", pair.encoder)
        with pyro.plate("data", 12, subsample_size=11) as index:
            pyro.sample("z", pair.posterior(x[index]))

    return model, guide, data()


def guide_that_changes_its_data():
    pair = Pair()

    def guide(x):
        x[torch.isnan(x)] = 0
        pair.guide(x)

    return pair.model, guide, data()


def guide_that_takes_a_gradient():
    pair = Pair()

    def guide(x):
        pyro.module("encoder", pair.encoder)
        loc, raw = pair.encoder(x).chunk(2, -1)
        error = (pair.decoder(loc) - x).square().sum()
        loc = loc - 0.01 * torch.autograd.grad(error, loc, create_graph=True)[0]
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, softplus(raw) + 0.1).to_event(1))

    return pair.model, guide, data()


def divergence_weighed_like_a_subsample():
    """A KL weight of 50 that equals the ratio of data set and batch size."""
    pair = Pair()

    def model(x):
        pyro.module("decoder", pair.decoder)
        with pyro.plate("data", 600, subsample_size=len(x)):
            with poutine.scale(scale=50.0):
                z = pyro.sample("z", normal(2))
            pyro.sample("x", dist.Normal(pair.decoder(z), 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", pair.encoder)
        with poutine.scale(scale=50.0), pyro.plate("data", 600, subsample_size=len(x)):
            pyro.sample("z", pair.posterior(x))

    return model, guide, data()


RIGHT = {
    "several plates": lambda: (*several_plates(), BATCH),
    "subsampled": lambda: (*subsampled(), BATCH),
    "hierarchy": lambda: (*hierarchy("gaussian"), BATCH),
    "constrained globals": lambda: (*constrained_globals(), BATCH),
    "flow": lambda: (*flow(), BATCH),
    "markov": lambda: (*markov(), BATCH),
    **{
        make.__name__: make
        for make in (
            masked_data,
            annealed,
            layer_norm_and_frozen_features,
            likelihood_by_a_factor,
            mixture_summed_out,
            bayesian_weights_in_a_pyro_module,
            maximum_a_posteriori,
            positive_latents,
            auxiliary_and_deterministic_sites,
            one_datum_after_another,
            rows_of_parameters_looked_up,
            labels_as_an_argument,
            conditional_flow,
            rows_that_the_program_picks,
            guide_that_changes_its_data,
            guide_that_takes_a_gradient,
            divergence_weighed_like_a_subsample,
        )
    },
}
