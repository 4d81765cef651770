"""How do I write a model and a guide for data of my own?"""

# %% [markdown]
# # A pair of your own
#
# The data here are counts: how often each of 24 sensors fired in a second, at 600 seconds. Behind
# them are a place (the activity is a bump around it) and a strength. We write both programs by
# hand, with a likelihood that fits counts, make the mistakes that everybody makes, and read what
# pvae says.

# %%
import os
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from torch import nn

import pvae

SHORT = bool(os.environ.get("PVAE_SHORT"))  # a quick pass through every cell
FIGURES = Path("figures")
FIGURES.mkdir(exist_ok=True)
SENSORS = 24


def simulate(seconds, seed):
    """Counts of shape (seconds, SENSORS), and the place behind each second."""
    generator = torch.Generator().manual_seed(seed)
    place = torch.rand(seconds, 1, generator=generator) * 6 - 3
    strength = 4 + 8 * torch.rand(seconds, 1, generator=generator)
    positions = torch.linspace(-4, 4, SENSORS)
    rate = 0.3 + strength * torch.exp(-0.5 * (positions - place) ** 2)
    return torch.poisson(rate, generator=generator), place.squeeze(1)


train, _ = simulate(600, seed=0)
test, places = simulate(200, seed=1)
print(f"counts from {train.min():.0f} to {train.max():.0f}, of shape {tuple(train.shape)}")

# %% [markdown]
# ## Plates, events, shapes
#
# Every distribution in Pyro has a *batch shape* (independent data) and an *event shape* (the parts
# of one datum). The rule for a pair: the batch shape is what the plates around the site say,
# everything else is the event, and `.to_event(n)` moves the last n dimensions from the one to the
# other.
#
#     Poisson(rate)              rate (batch, 24)     batch shape (batch, 24), event shape ()
#     Poisson(rate).to_event(1)                       batch shape (batch,),    event shape (24,)
#
# A likelihood of one's own is nothing special: a distribution with the event shape of a datum.

# %%
HIDDEN = 64


class Counts(nn.Module):
    """p(x, z) = N(z; 0, I) Poisson(x; rate(z)), q(z | x) = N(z; loc(x), diag(scale(x)^2))."""

    def __init__(self, z_dim=2):
        super().__init__()
        self.z_dim = z_dim
        self.decoder = pvae.nn.MLP(z_dim, HIDDEN, SENSORS)
        self.encoder = pvae.nn.MLP(SENSORS, HIDDEN, 2 * z_dim)

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(self.z_dim), 1.0).to_event(1))
            rate = nn.functional.softplus(self.decoder(z)) + 1e-3
            pyro.sample("x", dist.Poisson(rate).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        loc, raw = self.encoder(torch.log1p(x)).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, pvae.nn.positive(raw)).to_event(1))


torch.manual_seed(0)
pair = Counts()
fit = pvae.fit(
    pair.model,
    pair.guide,
    train,
    valid=test,
    epochs=20 if SHORT else 200,
    learning_rate=3e-3,
    out="runs/counts",
    overwrite=True,
)

# %% [markdown]
# Two methods of one module make a pair as well as two functions do. What it is worth, in nats per
# second of data, beside a model without causes: independent Poisson counts at each sensor's mean
# rate.

# %%
evidence = pvae.log_likelihood(fit.model, fit.guide, test, num_particles=50 if SHORT else 2000)
baseline = dist.Poisson(train.mean(0)).to_event(1).log_prob(test).mean().item()
print(f"independent sensors  {baseline:7.2f} nats per datum")
print(f"the pair             {evidence.mean:7.2f} +- {evidence.std_error:.2f}")

codes = pvae.infer(fit.guide, test)["z"]
eighths = ((places + 3) / 6 * 8).long().clamp(0, 7)  # the place, in eight classes, for the colours
pvae.plots.latent_means(codes, eighths).savefig(FIGURES / "02_latent_means.png")
rebuilt = pvae.reconstruct(fit.model, fit.guide, test)
pvae.plots.reconstructions(test[:8], rebuilt[:8]).savefig(FIGURES / "02_reconstructions.png")
pvae.plots.learning_curve(fit.history).savefig(FIGURES / "02_learning_curve.png")

# %% [markdown]
# ## Coming back to a run
#
# The run folder has the trained values, not the code. In another process, build the pair as before
# and load: values are copied into it.

# %%
again = Counts()
loaded = pvae.load("runs/counts", model=again.model, guide=again.guide)
same = (
    pvae.elbo(loaded.model, loaded.guide, test).mean == pvae.elbo(fit.model, fit.guide, test).mean
)
print(f"the loaded pair gives the same bound: {same}")

# %% [markdown]
# ## What the messages say
#
# Each of these is a mistake that people make. pvae runs both programs once before it trains, and
# refuses what would be trained wrongly.


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
attempt("a batch larger than the data", pair.model, pair.guide, train, batch_size=1000)

# %% [markdown]
# ## What to try next
#
# 1. Real counts spread more than a Poisson's. Replace it by
#    `dist.NegativeBinomial(total_count, logits=...)`: what happens to the bound on these data,
#    which *are* Poisson?
# 2. Give the decoder a global weight with a prior, sampled outside the plate. `fit` counts it once
#    per data set: look at its term in `pvae.elbo(...).sites`.
# 3. Pass the place as a second argument, `pvae.fit(model, guide, (x, place))`, and write a model
#    of x given the place.
# 4. Save the class in `counts.py` and the data in an `.npz`, and do all of this with
#    `pvae train counts.py:Counts.model counts.py:Counts.guide --data counts.npz`.
