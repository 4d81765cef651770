"""How do I write a model and a guide for data of my own?"""

# %% [markdown]
# # A pair of your own
#
# The data here are counts: how often each sensor in a row fired within a second. Behind each second
# are two causes, a place (the activity is a bump around it) and a strength. We write both programs
# by hand, evaluate them, notice that the likelihood does not fit and write one that does, and read
# what pvae says to the mistakes that everybody makes. The pictures go to the folder `figures`.

# %%
import os
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from torch import nn

import pvae

SHORT = os.environ.get("PVAE_SHORT") == "1"  # a quick pass through every cell
FIGURES = Path("figures")
FIGURES.mkdir(exist_ok=True)
SENSORS = 24
SHAPE = 4  # of the bursts: the smaller, the wilder


def simulate(seconds, seed):
    """Counts of shape (seconds, SENSORS), and the place behind each second."""
    generator = torch.Generator().manual_seed(seed)
    place = torch.rand(seconds, 1, generator=generator) * 6 - 3
    strength = 4 + 8 * torch.rand(seconds, 1, generator=generator)
    positions = torch.linspace(-4, 4, SENSORS)
    rate = 0.3 + strength * torch.exp(-0.5 * (positions - place) ** 2)
    # Real sensors fire in bursts: each rate swings by a factor of mean 1, a Gamma variable, made as
    # the mean of exponential ones.
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
# of one datum). The rule for a pair: the batch shape is what the plates around the site say,
# everything else is the event. `.to_event(n)` moves the last n dimensions from the one to the
# other.

# %%
rates = torch.ones(5, SENSORS)  # five seconds
for text, fn in (
    ("Poisson(rates)", dist.Poisson(rates)),
    ("Poisson(rates).to_event(1)", dist.Poisson(rates).to_event(1)),
):
    print(f"{text:<28}batch shape {tuple(fn.batch_shape)}, event shape {tuple(fn.event_shape)}")

# %% [markdown]
# In `pyro.plate("data", len(x))` only the second is right: one datum is one second, and all of its
# sensors.
#
# ## Model and guide
#
# Two methods of one module make a pair as well as two functions do. The likelihood is simply the
# distribution at site "x": counts, so Poisson.

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
    "patience": 30,  # stop where the validation bound no longer rises, and keep the best
    "learning_rate": 3e-3,
}

torch.manual_seed(0)
pair = Sensors()
fit = pvae.fit(pair.model, pair.guide, train, out="runs/sensors", overwrite=True, **OPTIONS)
pvae.plots.learning_curve(fit.history).savefig(FIGURES / "02_learning_curve.png")

# %% [markdown]
# ## What it is worth
#
# Every estimate comes with two errors. `std_error` is over data: what other seconds would change.
# `mc_error` is of the estimate itself: what another seed would change, and what more particles make
# smaller. Beside the pair stands a model without causes: independent Poisson counts at each
# sensor's mean rate. Two models of the same seconds are compared second by second.

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
line("the pair gains", evidence.per_datum - independent)

# %% [markdown]
# What did the two numbers of z learn? `02_latent_means.png` has the codes of test seconds, coloured
# by the place behind them, in eighths of the row. Neighbours in the code should be neighbours in
# the place, which the pair has never seen.

# %%
codes = pvae.infer(fit.guide, test)["z"]
eighths = ((places + 3) / 6 * 8).long().clamp(0, 7)
pvae.plots.latent_means(codes, eighths).savefig(FIGURES / "02_latent_means.png")
nearest = torch.cdist(codes, codes).fill_diagonal_(float("inf")).argmin(1)
near = (places - places[nearest]).abs().mean()
chance = (places[:, None] - places).abs().mean()
print(f"places of nearest codes differ by {near:.2f} on average, of any two by {chance:.2f}")

rebuilt = pvae.reconstruct(fit.model, fit.guide, test)
pvae.plots.reconstructions(test[:8], rebuilt[:8]).savefig(FIGURES / "02_reconstructions.png")

# %% [markdown]
# ## A likelihood of your own
#
# A Poisson's variance is its mean. Are the counts as regular as that, once the causes are known?
# The squared distance from the reconstruction, over the reconstruction, would then be about 1.

# %%
spread = ((test - rebuilt) ** 2 / rebuilt).mean()
print(f"variance over mean around the reconstructions: {spread:.2f}")

# %% [markdown]
# The counts spread more than that. The negative binomial can: its variance is
# mean + mean^2 / shape. As a `Likelihood` it serves in any model that takes one. `outputs` says how
# many numbers it wants from the network for each dimension of x, `distribution` makes of them, of
# shape (batch, outputs, *x_shape), a distribution for each dimension. The event shape is set for
# you, and what is a parameter here is trained with the rest.


# %%
class Bursts(pvae.likelihoods.Likelihood):
    """Counts: a negative binomial, log-mean from the network, one shape for all, a parameter."""

    outputs = 1

    def __init__(self, x_shape):
        super().__init__(x_shape)
        self.log_shape = nn.Parameter(torch.tensor(2.0))

    def distribution(self, output):
        (log_mean,) = output.unbind(1)  # (batch, *x_shape)
        return dist.NegativeBinomial(self.log_shape.exp(), logits=log_mean - self.log_shape)


# %% [markdown]
# The model is the zoo's, with this likelihood; the guide is written as before. They are a pair
# because both call their site "z".

# %%
torch.manual_seed(0)
bursts = pvae.models.VAE(x_shape=(SENSORS,), z_dim=2, hidden=HIDDEN, likelihood=Bursts)
better = pvae.fit(bursts, Sensors().guide, train, **OPTIONS)
with_bursts = pvae.log_likelihood(better.model, better.guide, test, num_particles=PARTICLES)
line("Poisson", evidence.per_datum)
line("negative binomial", with_bursts.per_datum)
line("the negative binomial gains", with_bursts.per_datum - evidence.per_datum)
print(f"learned shape {bursts.likelihood.log_shape.exp():.1f}; the simulator's is {SHAPE}")

# %% [markdown]
# ## Coming back to a run
#
# A run folder made from Python has the trained values, not the code. In another process, build the
# pair as before and load: values are copied into it.

# %%
again = Sensors()
loaded = pvae.load("runs/sensors", model=again.model, guide=again.guide)
same = pvae.elbo(loaded.model, loaded.guide, test, num_particles=10).mean == bound.mean
print(f"the loaded pair gives the same bound: {same}")

# %% [markdown]
# ## What the messages say
#
# Each of these is a mistake that people make. pvae runs both programs once before it trains, and
# refuses what would be trained wrongly. The error is a `ValueError`; nothing is lost.


# %%
def attempt(what, model, guide, data, **options):
    try:
        pvae.fit(model, guide, data, epochs=1, progress=False, **options)
    except ValueError as error:
        print(f"{what}:\n    {error}\n")
    else:
        raise AssertionError(f"{what} was not refused")


failed = train.clone()
failed[17, 3] = float("nan")


def forgotten_site(x):
    pyro.module("encoder", pair.encoder)


def wrong_name(x):
    with pyro.plate("data", len(x)):
        pyro.sample("code", dist.Normal(x.new_zeros(2), 1.0).to_event(1))


def no_event(x):  # each sensor counts as a datum of its own, and there is no plate for them
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Poisson(pair.decoder(z).exp()), obs=x)


def binary(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Bernoulli(logits=pair.decoder(z)).to_event(1), obs=x)


attempt("a latent site that the guide forgets", pair.model, forgotten_site, train)
attempt("a site under another name", pair.model, wrong_name, train)
attempt("a missing to_event", no_event, pair.guide, train)
attempt("counts under a Bernoulli", binary, pair.guide, train)
attempt("data of another shape", pair.model, pair.guide, train[:, :20])
attempt("a sensor that failed", pair.model, pair.guide, failed)
attempt("a batch larger than the data", pair.model, pair.guide, train, batch_size=5000)

# %% [markdown]
# ## What to try next
#
# 1. Take the swing out of the simulator, so that the counts *are* Poisson. Which likelihood wins
#    now, by how much, and what shape does the negative binomial learn?
# 2. Give each sensor a shape of its own: set `outputs = 2` and take it from the network.
# 3. Give the decoder a global weight with a prior, sampled outside the plate in both programs.
#    `fit` counts it once per data set: look at its term in `pvae.elbo(...).sites`.
# 4. Pass the place as a second argument, `pvae.fit(model, guide, (x, place))`, and write a model
#    of x given the place. What is left for z to say?
# 5. Save the class in `sensors.py` and the data in an `.npz`, and do all of this with
#    `pvae train sensors.py:Sensors.model sensors.py:Sensors.guide --data sensors.npz`.
