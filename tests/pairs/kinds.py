"""Pairs of every kind that Pyro trains: `KINDS` has a function for each, which builds a `Kind`."""

from collections.abc import Callable
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import pyro.distributions.transforms as T
import torch
import torch.nn.functional as F
from pyro import poutine
from pyro.infer import (
    RenyiELBO,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
    config_enumerate,
)
from pyro.infer import autoguide as auto
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import nn

__all__ = ["BATCH", "KINDS", "Kind"]

ROWS, BATCH = 48, 12
X = torch.randn(ROWS, 2, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(ROWS) % 3
TEMPERATURE = torch.tensor(0.7)


@dataclass
class Kind:
    """A pair, its objective and its data.

    Attributes:
        model: p(x, z).
        guide: q(z | x).
        objective: makes the objective.
        data: arguments of the programs, one row per datum.
    """

    model: Callable[..., object]
    guide: Callable[..., object]
    objective: Callable[[], object] = Trace_ELBO
    data: tuple[torch.Tensor, ...] = (X,)


def net(inputs, outputs, hidden=4):
    return nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, outputs))


def normal(x, size=2):
    return dist.Normal(x.new_zeros(size), 1.0).to_event(1)


def gaussian_model(prior=normal, likelihood=None):
    """p(z) p(x | z) with a network."""
    decoder = net(2, 2)

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior(x))
            if likelihood is not None:
                likelihood(decoder(z), x)
            else:
                pyro.sample("x", dist.Normal(decoder(z), 0.7).to_event(1), obs=x)

    return model


def gaussian_guide(draw=None):
    """q(z | x) with a network; `draw` makes the distribution of two numbers per dimension."""
    encoder = net(2, 4)
    draw = draw or (lambda loc, s: dist.Normal(loc, s.exp()).to_event(1))

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", draw(*encoder(x).chunk(2, -1)))

    return guide


# Flows


def flow_guide(make, conditional=False):
    def build():
        transform, encoder = make(2), net(2, 4)
        context = net(2, 3) if conditional else None

        def guide(x):
            pyro.module("flow", transform)
            pyro.module("encoder", encoder)
            loc, log_scale = encoder(x).chunk(2, -1)
            used = transform
            if context is not None:
                pyro.module("context", context)
                used = transform.condition(context(x))
            with pyro.plate("data", len(x)):
                base = dist.Normal(loc, log_scale.exp()).to_event(1)
                pyro.sample("z", dist.TransformedDistribution(base, [used]))

        return Kind(gaussian_model(), guide)

    return build


def flow_prior(make):
    def build():
        transform = make(2)

        def prior(x):
            pyro.module("flow", transform)
            return dist.TransformedDistribution(normal(x), [transform])

        return Kind(gaussian_model(prior), gaussian_guide())

    return build


def conditional_spline_prior():
    transform = T.conditional_spline(2, 3)
    decoder, context = net(2, 2), net(1, 3)

    def model(x, y):
        pyro.module("decoder", decoder)
        pyro.module("flow", transform)
        pyro.module("context", context)
        given = context(y.unsqueeze(-1).float())
        with pyro.plate("data", len(x)):
            base = normal(x)
            z = pyro.sample("z", dist.TransformedDistribution(base, [transform.condition(given)]))
            pyro.sample("x", dist.Normal(decoder(z), 0.7).to_event(1), obs=x)

    own = gaussian_guide()
    return Kind(model, lambda x, y: own(x), data=(X, LABELS))


# Autoguides


def global_latents():
    def model(x):
        loc = pyro.sample("loc", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        scale = pyro.sample("scale", dist.LogNormal(torch.zeros(2), 0.5).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, scale).to_event(1), obs=x)

    return model


def autoguide(make):
    def build():
        model = global_latents()
        return Kind(model, make(model))

    return build


def auto_structured(model):
    return auto.AutoStructured(
        model,
        conditionals={"loc": "mvn", "scale": "normal"},
        dependencies={"scale": {"loc": "linear"}},
    )


def auto_list(model):
    guide = auto.AutoGuideList(model)
    guide.append(auto.AutoNormal(poutine.block(model, expose=["loc"])))
    guide.append(auto.AutoDelta(poutine.block(model, expose=["scale"])))
    return guide


# Enumeration


def mixture():
    def model(x):
        weights = pyro.param("weights", torch.ones(3) / 3, constraint=dist.constraints.simplex)
        locs = pyro.param("locs", lambda: torch.tensor([[0.0, 1.0], [1.0, 0.0], [-1.0, -1.0]]))
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(weights), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(locs[k], 1.0).to_event(1), obs=x)

    return Kind(model, lambda x: None, lambda: TraceEnum_ELBO(max_plate_nesting=1))


def mixture_with_autoguide():
    @config_enumerate
    def model(x):
        weights = pyro.sample("weights", dist.Dirichlet(torch.ones(3)))
        with pyro.plate("components", 3):
            locs = pyro.sample("locs", dist.Normal(torch.zeros(2), 2.0).to_event(1))
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(locs[k], 1.0).to_event(1), obs=x)

    guide = auto.AutoNormal(poutine.block(model, expose=["weights", "locs"]))
    return Kind(model, guide, lambda: TraceEnum_ELBO(max_plate_nesting=1))


def beside(rows, code):
    """Rows and one-hot codes side by side, for each value of an enumerated code."""
    shape = torch.broadcast_shapes(rows.shape[:-1], code.shape[:-1])
    return torch.cat([rows.expand(*shape, -1), code.expand(*shape, -1)], -1)


def semi_supervised(objective=None):
    """The structure of Pyro's SS-VAE without labels, which the guide draws or enumerates."""
    decoder, classifier, encoder = net(5, 2), net(2, 3), net(5, 4)

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(x))
            y = pyro.sample("y", dist.OneHotCategorical(x.new_ones(3) / 3))
            loc = decoder(beside(z, y))
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("classifier", classifier)
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.OneHotCategorical(logits=classifier(x)))
            loc, s = encoder(beside(x, y)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, s.exp()).to_event(1))

    if objective is None:
        return Kind(model, guide)
    return Kind(model, config_enumerate(guide, "parallel"), objective)


def labeled():
    """The structure of Pyro's SS-VAE with labels: y is observed in the model."""
    decoder, encoder = net(5, 2), net(5, 4)

    def model(x, y):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(x))
            pyro.sample("y", dist.Categorical(x.new_ones(3) / 3), obs=y)
            loc = decoder(beside(z, F.one_hot(y, 3).to(x.dtype)))
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(x, y):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            loc, s = encoder(beside(x, F.one_hot(y, 3).to(x.dtype))).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, s.exp()).to_event(1))

    return Kind(model, guide, data=(X, LABELS))


def hidden_markov():
    def model(x):
        flip = pyro.param("flip", torch.tensor(0.3), constraint=dist.constraints.unit_interval)
        locs = pyro.param("locs", torch.tensor([-1.0, 1.0]))
        table = torch.stack([torch.stack([1 - flip, flip]), torch.stack([flip, 1 - flip])])
        with pyro.plate("data", len(x), dim=-1):
            state = 0
            for t in pyro.markov(range(x.shape[1])):
                state = pyro.sample(
                    f"z{t}", dist.Categorical(table[state]), infer={"enumerate": "parallel"}
                )
                pyro.sample(f"x{t}", dist.Normal(locs[state], 1.0), obs=x[:, t])

    return Kind(model, lambda x: None, lambda: TraceEnum_ELBO(max_plate_nesting=1))


# Conditional, Bayesian, sequences


def conditional_vae():
    """The structure of Pyro's CVAE: a prior and a guide that are given a label."""
    prior, decoder, encoder = net(3, 4), net(5, 2), net(5, 4)

    def model(x, y):
        for name, part in (("prior", prior), ("decoder", decoder)):
            pyro.module(name, part)
        code = F.one_hot(y, 3).to(x.dtype)
        with pyro.plate("data", len(x)):
            loc, s = prior(code).chunk(2, -1)
            z = pyro.sample("z", dist.Normal(loc, s.exp()).to_event(1))
            loc = decoder(torch.cat([z, code], -1))
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(x, y):
        pyro.module("encoder", encoder)
        loc, s = encoder(torch.cat([x, F.one_hot(y, 3).to(x.dtype)], -1)).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, s.exp()).to_event(1))

    return Kind(model, guide, data=(X, LABELS))


def bayesian_network():
    """Weights are random, as in Pyro's tutorial on Bayesian regression."""

    class Regression(PyroModule):
        def __init__(self):
            super().__init__()
            self.linear = PyroModule[nn.Linear](1, 1)
            self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 1]).to_event(2))
            self.linear.bias = PyroSample(dist.Normal(0.0, 1.0).expand([1]).to_event(1))

        def forward(self, x):
            sigma = pyro.sample("sigma", dist.Gamma(2.0, 2.0))
            mean = self.linear(x[:, :1]).squeeze(-1)
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(mean, sigma), obs=x[:, 1])

    model = Regression()
    return Kind(model, auto.AutoDiagonalNormal(model))


def pyro_modules():
    class Model(PyroModule):
        def __init__(self):
            super().__init__()
            self.net = PyroModule[nn.Linear](2, 2)
            self.scale = PyroParam(torch.ones(2), constraint=dist.constraints.positive)

        def forward(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", normal(x))
                pyro.sample("x", dist.Normal(self.net(z), self.scale).to_event(1), obs=x)

    return Kind(Model(), gaussian_guide())


def deep_markov(trimmed=False):
    """The structure of Pyro's DMM: a sequence with masks for its lengths."""
    gate, emit, infer = net(2, 4), net(2, 1), net(3, 4)
    x = torch.randn(ROWS, 4, 1, generator=torch.Generator().manual_seed(1))
    lengths = 1 + torch.arange(ROWS) % 4

    def steps(x, lengths):
        return int(lengths.max()) if trimmed else x.shape[1]

    def model(x, lengths):
        pyro.module("gate", gate)
        pyro.module("emit", emit)
        with pyro.plate("data", len(x)):
            z = x.new_zeros(len(x), 2)
            for t in range(steps(x, lengths)):
                loc, s = gate(z).chunk(2, -1)
                with poutine.mask(mask=t < lengths):
                    z = pyro.sample(f"z{t}", dist.Normal(loc, s.exp()).to_event(1))
                    pyro.sample(f"x{t}", dist.Normal(emit(z), 1.0).to_event(1), obs=x[:, t])

    def guide(x, lengths):
        pyro.module("infer", infer)
        with pyro.plate("data", len(x)):
            z = x.new_zeros(len(x), 2)
            for t in range(steps(x, lengths)):
                loc, s = infer(torch.cat([z, x[:, t]], -1)).chunk(2, -1)
                with poutine.mask(mask=t < lengths):
                    z = pyro.sample(f"z{t}", dist.Normal(loc, s.exp()).to_event(1))

    return Kind(model, guide, data=(x, lengths))


# Masks, subsampling, factors


def masked():
    mask = torch.rand(ROWS, 2, generator=torch.Generator().manual_seed(2)) > 0.3
    own = gaussian_guide()
    decoder = net(2, 2)

    def model(x, seen):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(x))
            rows = dist.Normal(decoder(z), 0.7).mask(seen).to_event(1)
            pyro.sample("x", rows, obs=x)

    return Kind(model, lambda x, seen: own(x), data=(X, mask))


def observed_in_part():
    decoder, encoder = net(2, 1), net(2, 4)
    seen = torch.arange(ROWS) % 4 > 0

    def model(x, seen):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(x))
            loc = decoder(z).squeeze(-1)
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x[:, 0], obs_mask=seen)

    def guide(x, seen):
        pyro.module("encoder", encoder)
        loc, s = encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, s.exp()).to_event(1))
            with poutine.mask(mask=~seen):
                pyro.sample("x_unobserved", dist.Normal(x.new_zeros(len(x)), 1.0))

    return Kind(model, guide, data=(X, seen))


def subsampled():
    decoder, encoder = net(2, 2), net(2, 4)

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", ROWS, subsample_size=len(x)):
            z = pyro.sample("z", normal(x))
            pyro.sample("x", dist.Normal(decoder(z), 0.7).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", ROWS, subsample_size=len(x)):
            loc, s = encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, s.exp()).to_event(1))

    return Kind(model, guide)


def nested_plates():
    decoder, encoder = net(2, 2), net(2, 2)

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("columns", 2, dim=-1), pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(decoder(z), 1.0), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("columns", 2, dim=-1), pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.Normal(encoder(x), 0.5))

    return Kind(model, guide)


def factor():
    def likelihood(loc, x):
        pyro.factor("x", dist.Normal(loc, 0.7).to_event(1).log_prob(x))

    return Kind(gaussian_model(likelihood=likelihood), gaussian_guide())


def sequential_plate():
    def model(x):
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        for i in pyro.plate("data", len(x)):
            pyro.sample(f"x{i}", dist.Normal(loc, 1.0), obs=x[i, 0])

    def guide(x):
        pyro.sample("loc", dist.Normal(pyro.param("m", torch.zeros(())), 0.5))

    return Kind(model, guide)


# Latent distributions


def latent(prior, draw, into=lambda z: z):
    """A latent z of any distribution, of which `into` makes the location of x."""

    def build():
        decoder, encoder = net(2, 2), net(2, 4)

        def model(x):
            pyro.module("decoder", decoder)
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", prior(x))
                pyro.sample("x", dist.Normal(decoder(into(z)), 1.0).to_event(1), obs=x)

        def guide(x):
            pyro.module("encoder", encoder)
            with pyro.plate("data", len(x)):
                pyro.sample("z", draw(*encoder(x).chunk(2, -1)))

        return Kind(model, guide)

    return build


def each(family, *fixed):
    """A prior of fixed numbers, in two dimensions."""
    return lambda x: family(*(x.new_full((2,), value) for value in fixed)).to_event(1)


def positive(family):
    return lambda a, b: family(a.exp(), b.exp()).to_event(1)


def located(family):
    return lambda a, b: family(a, b.exp()).to_event(1)


def covariance(a, b):
    low = torch.diag_embed(b.exp()) + torch.tensor([[0.0, 0.0], [0.3, 0.0]])
    return dist.MultivariateNormal(a, scale_tril=low)


def low_rank(a, b):
    return dist.LowRankMultivariateNormal(a, b.unsqueeze(-1), b.exp())


def angles(a, b):
    return dist.VonMises(a, b.exp()).to_event(1)


# Networks and objectives


def batch_norm():
    encoder = nn.Sequential(nn.Linear(2, 4, bias=False), nn.BatchNorm1d(4), nn.Linear(4, 4))

    def guide(x):
        pyro.module("encoder", encoder)
        loc, s = encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, s.exp()).to_event(1))

    return Kind(gaussian_model(), guide)


def dropout():
    drop, own = nn.Dropout(0.3), gaussian_guide()

    def guide(x):
        own(drop(x))

    return Kind(gaussian_model(), guide)


def boolean_indexing():
    """Where z is large, the decoder writes through a boolean mask."""

    def likelihood(loc, x):
        shift = torch.zeros_like(loc)
        large = loc.abs() > 0.3
        shift[large] = loc[large].tanh()
        pyro.sample("x", dist.Normal(loc + shift, 0.7).to_event(1), obs=x)

    return Kind(gaussian_model(likelihood=likelihood), gaussian_guide())


def straight(objective):
    return lambda: Kind(gaussian_model(), gaussian_guide(), objective)


def hierarchy():
    down, out, up, top = net(2, 4), net(2, 2), net(2, 4), net(2, 4)

    def layer(name, value):
        loc, s = value.chunk(2, -1)
        return pyro.sample(name, dist.Normal(loc, s.exp()).to_event(1))

    def model(x):
        pyro.module("down", down)
        pyro.module("out", out)
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", normal(x))
            z1 = layer("z1", down(z2))
            pyro.sample("x", dist.Normal(out(z1), 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("up", up)
        pyro.module("top", top)
        with pyro.plate("data", len(x)):
            z1 = layer("z1", up(x))
            layer("z2", top(z1))

    return Kind(model, guide)


def topic_counts():
    """The structure of ProdLDA: counts of words under a softmax."""
    words = torch.randint(5, (ROWS, 8), generator=torch.Generator().manual_seed(3))
    counts = F.one_hot(words, 5).sum(1).float()
    decoder, encoder = nn.Linear(2, 5, bias=False), net(5, 4)

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(x))
            pyro.sample("x", dist.Multinomial(8, logits=decoder(z.softmax(-1))), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        loc, s = encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, s.exp()).to_event(1))

    return Kind(model, guide, data=(counts,))


KINDS: dict[str, Callable[[], Kind]] = {
    "VAE": straight(Trace_ELBO),
    "VAE, two particles": straight(lambda: Trace_ELBO(num_particles=2, vectorize_particles=True)),
    "VAE, mean-field objective": straight(TraceMeanField_ELBO),
    "VAE, TraceGraph_ELBO": straight(TraceGraph_ELBO),
    "VAE, RenyiELBO": straight(lambda: RenyiELBO(alpha=0.5, num_particles=2)),
    "PyroModule": pyro_modules,
    "batch normalization": batch_norm,
    "dropout": dropout,
    "boolean indexing": boolean_indexing,
    "hierarchy": hierarchy,
    "topic model": topic_counts,
    "affine_autoregressive": flow_guide(lambda d: T.affine_autoregressive(d, [4])),
    "affine_coupling": flow_guide(lambda d: T.affine_coupling(d, [4])),
    "spline": flow_guide(T.spline),
    "spline_coupling": flow_guide(lambda d: T.spline_coupling(d, hidden_dims=[4])),
    "spline_autoregressive": flow_guide(lambda d: T.spline_autoregressive(d, [4])),
    "conditional_spline": flow_guide(lambda d: T.conditional_spline(d, 3), conditional=True),
    "planar": flow_guide(T.planar),
    "radial": flow_guide(T.radial),
    "sylvester": flow_guide(lambda d: T.sylvester(d, 2)),
    "householder": flow_guide(T.householder),
    "block_autoregressive": flow_guide(lambda d: T.block_autoregressive(d, hidden_factors=[2])),
    "neural_autoregressive": flow_guide(lambda d: T.neural_autoregressive(d, [4])),
    "affine_coupling prior": flow_prior(lambda d: T.affine_coupling(d, [4])),
    "spline prior": flow_prior(T.spline),
    "conditional_spline prior": conditional_spline_prior,
    "AutoDelta": autoguide(auto.AutoDelta),
    "AutoNormal": autoguide(auto.AutoNormal),
    "AutoDiagonalNormal": autoguide(auto.AutoDiagonalNormal),
    "AutoMultivariateNormal": autoguide(auto.AutoMultivariateNormal),
    "AutoLowRankMultivariateNormal": autoguide(auto.AutoLowRankMultivariateNormal),
    "AutoIAFNormal": autoguide(lambda m: auto.AutoIAFNormal(m, hidden_dim=[8])),
    "AutoStructured": autoguide(auto_structured),
    "AutoGuideList": autoguide(auto_list),
    "mixture": mixture,
    "mixture, AutoNormal": mixture_with_autoguide,
    "SS-VAE": lambda: semi_supervised(lambda: TraceEnum_ELBO(max_plate_nesting=1)),
    "SS-VAE, labeled": labeled,
    "SS-VAE, REINFORCE": semi_supervised,
    "hidden Markov model": hidden_markov,
    "CVAE": conditional_vae,
    "Bayesian regression": bayesian_network,
    "deep Markov model": deep_markov,
    "sequences, trimmed": lambda: deep_markov(trimmed=True),
    "mask": masked,
    "obs_mask": observed_in_part,
    "subsampling": subsampled,
    "nested plates": nested_plates,
    "factor": factor,
    "sequential plate": sequential_plate,
    "LogNormal": latent(each(dist.LogNormal, 0.0, 1.0), located(dist.LogNormal)),
    "Gamma": latent(each(dist.Gamma, 2.0, 1.0), positive(dist.Gamma)),
    "Beta": latent(each(dist.Beta, 2.0, 2.0), positive(dist.Beta)),
    "Dirichlet": latent(
        lambda x: dist.Dirichlet(x.new_ones(2)), lambda a, b: dist.Dirichlet(a.exp())
    ),
    "StudentT": latent(
        each(dist.StudentT, 4.0, 0.0, 1.0), lambda a, b: dist.StudentT(4.0, a, b.exp()).to_event(1)
    ),
    "Laplace": latent(each(dist.Laplace, 0.0, 1.0), located(dist.Laplace)),
    "Gumbel": latent(each(dist.Gumbel, 0.0, 1.0), located(dist.Gumbel)),
    "Cauchy": latent(each(dist.Cauchy, 0.0, 1.0), located(dist.Cauchy)),
    "Weibull": latent(each(dist.Weibull, 1.0, 2.0), positive(dist.Weibull)),
    "HalfNormal": latent(
        each(dist.HalfNormal, 1.0), lambda a, b: dist.HalfNormal(a.exp()).to_event(1)
    ),
    "MultivariateNormal": latent(
        lambda x: dist.MultivariateNormal(x.new_zeros(2), torch.eye(2)), covariance
    ),
    "LowRankMultivariateNormal": latent(
        lambda x: dist.LowRankMultivariateNormal(x.new_zeros(2), x.new_ones(2, 1), x.new_ones(2)),
        low_rank,
    ),
    "VonMises": latent(each(dist.VonMises, 0.0, 1.0), angles, into=torch.sin),
    "RelaxedBernoulli": latent(
        lambda x: dist.RelaxedBernoulliStraightThrough(TEMPERATURE, x.new_ones(2) / 2).to_event(1),
        lambda a, b: dist.RelaxedBernoulliStraightThrough(TEMPERATURE, logits=a).to_event(1),
    ),
    "RelaxedOneHotCategorical": latent(
        lambda x: dist.RelaxedOneHotCategorical(TEMPERATURE, x.new_full((2,), 0.5)),
        lambda a, b: dist.RelaxedOneHotCategorical(TEMPERATURE, logits=a),
    ),
    "Bernoulli, REINFORCE": latent(
        lambda x: dist.Bernoulli(x.new_full((2,), 0.5)).to_event(1),
        lambda a, b: dist.Bernoulli(logits=a).to_event(1),
    ),
    "OneHotCategorical, REINFORCE": latent(
        lambda x: dist.OneHotCategorical(x.new_full((2,), 0.5)),
        lambda a, b: dist.OneHotCategorical(logits=a),
    ),
}  # fmt: skip
