"""How do I write a model and a guide for data of my own?"""

# %% [markdown]
# # A pair of your own
#
# The data here are counts: the number of times that each sensor in a row fired within one second.
# Two causes determine the counts of a second: a place, around which the activity forms a bump, and
# a strength. We write both programs by hand and evaluate them. We then find that the likelihood
# does not fit, write one that does, and read pvae's messages for the most common mistakes. After
# this tutorial you will be able to write both programs for data of your own, and to find out
# whether their likelihood fits. The figures go to the folder `figures`.

# %%
import os
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from torch import nn

import pvae

SHORT = os.environ.get("PVAE_SHORT") == "1"  # the tests run a short version
FIGURES = Path("figures")
FIGURES.mkdir(exist_ok=True)
SENSORS = 24
SHAPE = 4  # of the Gamma noise on each rate: a smaller shape means stronger bursts


def simulate(seconds, seed):
    """Counts of shape (seconds, SENSORS) and places of shape (seconds,)."""
    generator = torch.Generator().manual_seed(seed)
    place = torch.rand(seconds, 1, generator=generator) * 6 - 3
    strength = 4 + 8 * torch.rand(seconds, 1, generator=generator)
    positions = torch.linspace(-4, 4, SENSORS)
    rate = 0.3 + strength * torch.exp(-0.5 * (positions - place) ** 2)
    # Real sensors fire in bursts, so each rate is multiplied by Gamma noise with mean 1: the mean
    # of SHAPE exponential variables.
    uniform = torch.rand(SHAPE, seconds, SENSORS, generator=generator).clamp(min=1e-6)
    swing = -uniform.log().mean(0)
    return torch.poisson(rate * swing, generator=generator), place.squeeze(1)


train, _ = simulate(2000, seed=0)
valid, _ = simulate(500, seed=1)
test, places = simulate(500, seed=2)
print(
    f"{len(train)} seconds of {SENSORS} sensors, counts from {train.min():.0f} to {train.max():.0f}"
)

# %% [markdown]
# ## Plates, events, shapes
#
# Every distribution in Pyro has a *batch shape* (independent data) and an *event shape* (the parts
# of one datum). In a pair, the batch shape is the shape of the plates around the site, and all
# other dimensions belong to the event. `.to_event(n)` turns the last n batch dimensions into event
# dimensions.

# %%
rates = torch.ones(5, SENSORS)  # five seconds
for text, fn in (
    ("Poisson(rates)", dist.Poisson(rates)),
    ("Poisson(rates).to_event(1)", dist.Poisson(rates).to_event(1)),
):
    print(f"{text:<28}batch shape {tuple(fn.batch_shape)}, event shape {tuple(fn.event_shape)}")

# %% [markdown]
# In `pyro.plate("data", len(x))` only the second is right: one datum is one second of all sensors.
#
# ## Model and guide
#
# A pair may be two functions or, as here, two methods of one module. The likelihood is the
# distribution at site "x". The data are counts, so we start with a Poisson.

# %%
HIDDEN = 64


class Sensors(nn.Module):
    """p(x, z) = N(z; 0, I) Poisson(x; rate(z)), q(z | x) = N(z; loc(x), diag(scale(x)^2))."""

    def __init__(self):
        super().__init__()
        self.decoder = pvae.nn.MLP(2, HIDDEN, SENSORS)
        self.encoder = pvae.nn.MLP(SENSORS, HIDDEN, 4)

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            rate = self.decoder(z).exp()  # (batch, SENSORS)
            pyro.sample("x", dist.Poisson(rate).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        loc, raw = self.encoder(torch.log1p(x)).chunk(2, -1)  # each (batch, 2)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, pvae.nn.positive(raw)).to_event(1))


OPTIONS = {
    "valid": valid,
    "epochs": 30 if SHORT else 150,
    "patience": 30,  # epochs without a better validation bound before training stops
    "learning_rate": 3e-3,
}

torch.manual_seed(0)
pair = Sensors()
fit = pvae.fit(pair.model, pair.guide, train, out="runs/sensors", overwrite=True, **OPTIONS)
pvae.plots.learning_curve(fit.history).savefig(FIGURES / "02_learning_curve.png")

# %% [markdown]
# ## Evaluation
#
# Every estimate has two errors. `std_error` is over data: how much the mean would vary between test
# sets of this size. `mc_error` is the Monte Carlo error: how much the mean would vary between
# seeds; more particles reduce it. We compare the pair with a baseline without latent variables:
# independent Poisson counts, with the mean rate of each sensor. Both score the same seconds, so we
# average the difference second by second.

# %%
PARTICLES = 50 if SHORT else 1000


def line(what, values):
    error = values.std() / len(values) ** 0.5
    print(f"{what:<34}{values.mean():8.2f} +- {error:.2f} nats per datum")


bound = pvae.elbo(fit.model, fit.guide, test, num_particles=10)
evidence = pvae.log_likelihood(fit.model, fit.guide, test, num_particles=PARTICLES)
for name, estimate in (("ELBO", bound), ("log-likelihood", evidence)):
    errors = f"+- {estimate.std_error:.2f} over data, +- {estimate.mc_error:.3f} Monte Carlo"
    print(f"{name:<16}{estimate.mean:8.2f} {errors}")
independent = dist.Poisson(train.mean(0)).to_event(1).log_prob(test)
line("independent sensors", independent)
line("pair minus independent", evidence.per_datum - independent)

# %% [markdown]
# What do the two coordinates of z represent? `02_latent_means.png` shows the codes of the test
# seconds, coloured by place (eight intervals along the row). If z represents the place, seconds
# with similar codes have similar places. Training never saw the places.

# %%
codes = pvae.infer(fit.guide, test)["z"]
eighths = ((places + 3) / 6 * 8).long().clamp(0, 7)
pvae.plots.latent_means(codes, eighths).savefig(FIGURES / "02_latent_means.png")
nearest = torch.cdist(codes, codes).fill_diagonal_(float("inf")).argmin(1)
near = (places - places[nearest]).abs().mean()
chance = (places[:, None] - places).abs().mean()
print(f"mean distance of places: {near:.2f} for nearest codes, {chance:.2f} for random pairs")

rebuilt = pvae.reconstruct(fit.model, fit.guide, test)
pvae.plots.reconstructions(test[:8], rebuilt[:8]).savefig(FIGURES / "02_reconstructions.png")

# %% [markdown]
# ## A likelihood of your own
#
# The variance of a Poisson equals its mean. Does this hold for the counts given z? If so, the
# squared distance from the reconstruction divided by the reconstruction averages about 1.

# %%
spread = ((test - rebuilt) ** 2 / rebuilt).mean()
print(f"variance over mean around the reconstructions: {spread:.2f}")

# %% [markdown]
# The ratio is above 1: the counts are overdispersed. A negative binomial allows that: its variance
# is mean + mean^2 / shape. Written as a `Likelihood`, it works in every model that takes one.
# `outputs` is the number of network outputs for each dimension of x. `distribution` receives them
# with shape (batch, outputs, *x_shape) and returns a distribution for each dimension; pvae sets the
# event shape. Parameters of the likelihood are trained with the networks.


# %%
class Bursts(pvae.likelihoods.Likelihood):
    """Negative binomial: the network computes the log-mean; one shape is a parameter."""

    outputs = 1

    def __init__(self, x_shape):
        super().__init__(x_shape)
        self.log_shape = nn.Parameter(torch.tensor(2.0))

    def distribution(self, output):
        (log_mean,) = output.unbind(1)  # (batch, *x_shape)
        return dist.NegativeBinomial(self.log_shape.exp(), logits=log_mean - self.log_shape)


# %% [markdown]
# The model is the zoo's `VAE` with this likelihood; the guide is the one above. They form a pair
# because both name their latent site "z".

# %%
torch.manual_seed(0)
bursts = pvae.models.VAE(x_shape=(SENSORS,), z_dim=2, hidden=HIDDEN, likelihood=Bursts)
better = pvae.fit(bursts, Sensors().guide, train, **OPTIONS)
with_bursts = pvae.log_likelihood(better.model, better.guide, test, num_particles=PARTICLES)
line("Poisson", evidence.per_datum)
line("negative binomial", with_bursts.per_datum)
line("negative binomial minus Poisson", with_bursts.per_datum - evidence.per_datum)
print(f"learned shape {bursts.likelihood.log_shape.exp():.1f}, simulated with {SHAPE}")

# %% [markdown]
# ## Loading a run
#
# The folder of a run made from Python contains the trained values, not the code. To use it in
# another process, build the pair again and load the run; `load` copies the values into the pair.

# %%
again = Sensors()
loaded = pvae.load("runs/sensors", model=again.model, guide=again.guide)
same = pvae.elbo(loaded.model, loaded.guide, test, num_particles=10).mean == bound.mean
print(f"the loaded pair has the same bound: {same}")

# %% [markdown]
# ## Messages for common mistakes
#
# pvae runs both programs once before training and rejects mistakes with a `ValueError` that names
# the problem, the line and the fix. Here are seven common ones.


# %%
def attempt(what, model, guide, data, **options):
    try:
        pvae.fit(model, guide, data, epochs=1, progress=False, **options)
    except ValueError as error:
        print(f"{what}:\n    {error}\n")
    else:
        raise AssertionError(f"pvae did not reject {what}")


failed = train.clone()
failed[17, 3] = float("nan")


def forgotten_site(x):
    pyro.module("encoder", pair.encoder)


def wrong_name(x):
    with pyro.plate("data", len(x)):
        pyro.sample("code", dist.Normal(x.new_zeros(2), 1.0).to_event(1))


def no_event(x):  # each sensor becomes a batch dimension without a plate
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Poisson(pair.decoder(z).exp()), obs=x)


def binary(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Bernoulli(logits=pair.decoder(z)).to_event(1), obs=x)


attempt("a guide without the latent site", pair.model, forgotten_site, train)
attempt("a latent site with another name", pair.model, wrong_name, train)
attempt("a missing to_event", no_event, pair.guide, train)
attempt("counts under a Bernoulli", binary, pair.guide, train)
attempt("data of another shape", pair.model, pair.guide, train[:, :20])
attempt("data with a NaN", pair.model, pair.guide, failed)
attempt("a batch larger than the data", pair.model, pair.guide, train, batch_size=5000)

# %% [markdown]
# ## What to try next
#
# 1. Remove `swing` from the simulator, so that the counts *are* Poisson. Expect equal bounds, but
#    for noise: the negative binomial learns a large shape, and is then a Poisson distribution.
# 2. Give each sensor its own shape: set `outputs = 2` and let the network compute it. Expect
#    little: all sensors swing alike.
# 3. Give the decoder a global weight with a prior, sampled outside the plate in both programs.
#    `fit` counts it once per data set: expect its term in `pvae.elbo(...).sites` to be tiny.
# 4. Pass the place as a second argument, `pvae.fit(model, guide, (x, place))`, and write a model of
#    x given the place. Expect z to represent what is left, the strength.
# 5. Save the class in `sensors.py` and the data in an `.npz` file, and train the pair with `pvae
#    train sensors.py:Sensors.model sensors.py:Sensors.guide --data sensors.npz`.
#
# Not said here: latent variables that are discrete (labels and conditions), that follow each other
# (sequences) or belong to all data (uncertain weights), and values that are missing (tables).
