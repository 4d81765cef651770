"""What is a variational autoencoder, and how is one trained?"""

# %% [markdown]
# # A first variational autoencoder
#
# A picture x has few causes: which digit it is, how it slants, how thick the pen was. A *latent
# variable model* says so: draw a short vector z of causes from a prior p(z), then draw the picture
# from p(x | z). A *variational autoencoder* makes p(x | z) a network, the decoder, and learns at
# the same time a second network that goes back from the picture to its causes: the recognition
# network q(z | x), or encoder.
#
# In pvae both are ordinary Pyro programs. This script writes them, trains them on real handwritten
# digits, and looks at what they learned. It takes about a minute.

# %%
import os
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch

import pvae

SHORT = bool(os.environ.get("PVAE_SHORT"))  # a quick pass through every cell
FIGURES = Path("figures")
FIGURES.mkdir(exist_ok=True)
torch.manual_seed(0)

# %% [markdown]
# ## Data
#
# 1,797 digits of 8x8 pixels, with 17 grey levels from 0 to 1. Some are held out: `valid` to watch
# training, `test` to judge it. Labels are there for colouring pictures; training never sees them.

# %%
digits = pvae.data.load("digits")
print(f"{len(digits.train)} to train on, {len(digits.valid)} to watch, {len(digits.test)} to judge")
print(f"each {digits.x_shape}, {digits.levels} grey levels")

# %% [markdown]
# ## The model p(x, z)
#
# Two `sample` statements. z comes from a standard Gaussian in two dimensions. The decoder turns z
# into the parameters of a distribution of x; a *likelihood* knows which distribution. Grey levels
# are whole numbers, so we take one that gives a probability to each: the discretized logistic,
# with a location and a scale per pixel.
#
# - `pyro.module` tells Pyro that the decoder's weights are to be trained.
# - `pyro.plate("data", len(x))` says that the rows of a batch are independent.
# - `.to_event(1)` says that the two numbers of z belong to one datum.

# %%
HIDDEN = 32 if SHORT else 256
likelihood = pvae.likelihoods.DiscretizedLogistic((8, 8), levels=17)
decoder = pvae.nn.MLP(2, (HIDDEN, HIDDEN), likelihood.outputs * 64)


def model(x):
    pyro.module("decoder", decoder)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        output = decoder(z).unflatten(-1, (likelihood.outputs, 8, 8))
        pyro.sample("x", likelihood(output), obs=x)


# %% [markdown]
# ## The guide q(z | x)
#
# For each picture a Gaussian over z, whose mean and scale the encoder computes. Site names match
# the model's: "z" here is the "z" there. That is all that makes the two a pair.

# %%
encoder = pvae.nn.MLP(64, (HIDDEN, HIDDEN), 4)


def guide(x):
    pyro.module("encoder", encoder)
    loc, log_scale = encoder(x.flatten(1)).chunk(2, -1)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


# %% [markdown]
# ## What is maximised
#
# We would like to maximise log p(x), the *evidence*, but that is an integral over all z. The guide
# gives a lower bound that can be estimated with one draw of z:
#
#     log p(x) = log E_q[p(x, z) / q(z | x)]
#             >= E_q[log p(x, z) - log q(z | x)]                       (Jensen)
#              = E_q[log p(x | z)] - KL(q(z | x) || p(z))  = the ELBO
#
# The first term asks for good reconstructions, the second keeps the codes near the prior. What is
# missing up to log p(x) is KL(q(z | x) || p(z | x)): the bound is tight where the guide is the
# posterior. Since z = loc + scale * noise, the gradient reaches both networks through the draw.
#
# ## Training

# %%
fit = pvae.fit(
    model,
    guide,
    digits,
    epochs=5 if SHORT else 300,
    learning_rate=3e-3,
    patience=60,  # stop where the validation bound no longer rises, and keep the best
    seed=1,
)
first, best = fit.history[0], fit.history[(fit.best_epoch or 1) - 1]
print(f"validation bound: {first['valid_elbo']:.2f} nats per datum after one epoch,")
print(f"{best['valid_elbo']:.2f} at its best, after epoch {fit.best_epoch}")
pvae.plots.learning_curve(fit.history).savefig(FIGURES / "01_learning_curve.png")

# %% [markdown]
# ## What it is worth
#
# The bound on digits that were held out, and its terms: what a reconstruction costs (x), and how
# far codes stray from the prior (z). `log_likelihood` estimates the evidence itself by importance
# sampling: above the bound, and closer to the truth.

# %%
bound = pvae.elbo(fit.model, fit.guide, digits.test, num_particles=10)
evidence = pvae.log_likelihood(
    fit.model, fit.guide, digits.test, num_particles=50 if SHORT else 1000
)
print(f"ELBO            {bound.mean:8.2f} +- {bound.std_error:.2f} nats per datum")
for site, term in bound.sites.items():
    print(f"  {site:<14}{term:8.2f}")
print(f"log-likelihood  {evidence.mean:8.2f} +- {evidence.std_error:.2f}")

# %% [markdown]
# ## What it learned
#
# Held-out digits and what is left of them after two numbers; digits that the model makes up; where
# the held-out digits lie in the latent space; and what the decoder makes of each point of it.

# %%
x = digits.test.first(12)[0]
rebuilt = pvae.reconstruct(fit.model, fit.guide, x)
pvae.plots.reconstructions(x, rebuilt).savefig(FIGURES / "01_reconstructions.png")

draws = pvae.sample(fit.model, torch.zeros(64, 8, 8))
pvae.plots.prior_samples(draws["x"]).savefig(FIGURES / "01_samples.png")

codes = pvae.infer(fit.guide, digits.test)["z"]
pvae.plots.latent_means(codes, digits.test.labels).savefig(FIGURES / "01_latent_means.png")


def decode(z):
    with torch.no_grad():
        return likelihood(decoder(z).unflatten(-1, (likelihood.outputs, 8, 8))).mean


pvae.plots.manifold(decode).savefig(FIGURES / "01_manifold.png")

# %% [markdown]
# ## The same from the zoo, on MNIST
#
# The zoo has this pair as two classes. MNIST is used where `$PVAE_DATA` holds it; the digits that
# you have just seen stand in where it does not. Binarized anew in each epoch, as is usual, its
# pixels are 0 or 1, and so the likelihood is Bernoulli.

# %%
folder = Path(os.environ.get("PVAE_DATA", "")) / "mnist"
if folder.is_dir() and not SHORT:
    data, epochs = pvae.data.load("mnist", binarize="dynamic"), 5
else:
    print("no MNIST in $PVAE_DATA: the embedded digits stand in")
    data, epochs = pvae.data.load("digits", binarize="dynamic"), 2 if SHORT else 50
model = pvae.models.VAE(x_shape=data.x_shape, z_dim=20, hidden=HIDDEN, likelihood="bernoulli")
guide = pvae.guides.MeanField(x_shape=data.x_shape, z_dim=20, hidden=HIDDEN)
fit = pvae.fit(model, guide, data, epochs=epochs)
bound = pvae.elbo(fit.model, fit.guide, data.test)
print(
    f"{data.name}: test ELBO {bound.mean:.2f} +- {bound.std_error:.2f} nats after {epochs} epochs"
)
x = data.test.first(12)[0]
rebuilt = pvae.reconstruct(fit.model, fit.guide, x)
pvae.plots.reconstructions(x, rebuilt).savefig(FIGURES / "01_zoo_reconstructions.png")

# %% [markdown]
# ## What to try next
#
# 1. Give z eight dimensions instead of two. Which term of the bound pays, which gains, and what
#    happens to the gap between bound and log-likelihood?
# 2. Replace the guide by `pvae.guides.FullRank`. Does the gap close?
# 3. Use `pvae.likelihoods.Gaussian` on the grey levels. Why can its bound not be compared with the
#    one above?
# 4. Leave out `patience` and train three times as long. What do the two curves tell?
