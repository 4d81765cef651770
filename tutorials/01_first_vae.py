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
# digits, and looks at what they learned. The pictures go to the folder `figures`.

# %%
import os
import time
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch

import pvae

SHORT = os.environ.get("PVAE_SHORT") == "1"  # a quick pass through every cell
FIGURES = Path("figures")
FIGURES.mkdir(exist_ok=True)
torch.manual_seed(0)

# %% [markdown]
# ## Data
#
# Small pictures of digits that come inside scikit-learn, in a few grey levels from 0 to 1. Some
# digits are held out: `valid` to watch training, `test` to judge it. Labels are there for colouring
# pictures; training never sees them.

# %%
digits = pvae.data.load("digits")
print(f"{len(digits.train)} to train on, {len(digits.valid)} to watch, {len(digits.test)} to judge")
height, width = digits.x_shape
print(f"each {height} x {width} pixels of {digits.levels} grey levels")

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
likelihood = pvae.likelihoods.DiscretizedLogistic(digits.x_shape, levels=digits.levels)
decoder = pvae.nn.MLP(2, (HIDDEN, HIDDEN), likelihood.outputs * height * width)


def distribution_of_x(z):  # p(x | z)
    return likelihood(decoder(z).unflatten(-1, (likelihood.outputs, height, width)))


def model(x):
    pyro.module("decoder", decoder)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        pyro.sample("x", distribution_of_x(z), obs=x)


# %% [markdown]
# ## The guide q(z | x)
#
# For each picture a Gaussian over z, whose mean and scale the encoder computes. Site names match
# the model's: "z" here is the "z" there. That is all that makes the two a pair.

# %%
encoder = pvae.nn.MLP(height * width, (HIDDEN, HIDDEN), 4)  # a loc and a log_scale for each of z


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
#
# `fit` averages the bound over a batch of digits, follows its gradient, and after each epoch looks
# at the digits in `valid`. With `patience` it stops where their bound no longer rises, and keeps
# the networks of the best epoch.

# %%
started = time.perf_counter()
fit = pvae.fit(
    model,
    guide,
    digits,
    epochs=5 if SHORT else 300,
    learning_rate=3e-3,
    patience=60,
    seed=1,
)
first, best, last = fit.history[0], fit.history[fit.best_epoch - 1], fit.history[-1]
print(f"{len(fit.history)} epochs in {time.perf_counter() - started:.0f} seconds")
print(f"validation bound: {first['valid_elbo']:.2f} nats per datum after one epoch,")
print(f"{best['valid_elbo']:.2f} at its best, after epoch {fit.best_epoch}")
print(f"training minus validation bound: {-best['train_loss'] - best['valid_elbo']:.2f} nats then,")
print(f"{-last['train_loss'] - last['valid_elbo']:.2f} after the last epoch")
pvae.plots.learning_curve(fit.history).savefig(FIGURES / "01_learning_curve.png")

# %% [markdown]
# The gap between the two curves is overfitting. It grows for as long as training goes on, while
# the validation bound stands still: the networks learn these digits, and no longer digits.
#
# ## What it is worth
#
# The bound on digits that were held out, and its terms: what a reconstruction costs (x), and how
# far codes stray from the prior (z). `log_likelihood` estimates the evidence itself by importance
# sampling: above the bound, and closer to the truth. The number after +- is the standard error over
# data, what other held-out digits would change.

# %%
bound = pvae.elbo(fit.model, fit.guide, digits.test, num_particles=10)
evidence = pvae.log_likelihood(
    fit.model, fit.guide, digits.test, num_particles=50 if SHORT else 1000
)
print(f"ELBO            {bound.mean:8.2f} +- {bound.std_error:.2f} nats per datum")
for site, term in bound.sites.items():
    print(f"  {site:<14}{term:8.2f}")
print(f"log-likelihood  {evidence.mean:8.2f} +- {evidence.std_error:.2f}")
print(f"the gap         {evidence.mean - bound.mean:8.2f}, about KL(q(z | x) || p(z | x))")

# %% [markdown]
# ## What it learned
#
# Held-out digits and what is left of them after two numbers (`01_reconstructions.png`); digits that
# the model makes up (`01_samples.png`): rough, as each pixel is a draw of its own; where the
# held-out digits lie in the latent space (`01_latent_means.png`): classes lie apart, though no
# label was used; and what the decoder makes of each point of it (`01_manifold.png`).

# %%
x = digits.test.first(12)[0]
rebuilt = pvae.reconstruct(fit.model, fit.guide, x)
pvae.plots.reconstructions(x, rebuilt).savefig(FIGURES / "01_reconstructions.png")

draws = pvae.sample(fit.model, torch.zeros(64, height, width))
pvae.plots.prior_samples(draws["x"]).savefig(FIGURES / "01_samples.png")

codes = pvae.infer(fit.guide, digits.test)["z"]
pvae.plots.latent_means(codes, digits.test.labels).savefig(FIGURES / "01_latent_means.png")


def decode(z):
    with torch.no_grad():
        return distribution_of_x(z).mean


pvae.plots.manifold(decode, n=12).savefig(FIGURES / "01_manifold.png")

# %% [markdown]
# ## The same from the zoo, on MNIST
#
# The zoo has this pair as two classes, a line each; here with more latent dimensions. MNIST has
# larger digits and many more of them. `pvae.data.load("mnist")` would download what it does not
# find, so this script asks first, and takes MNIST only where `$PVAE_DATA` holds it; if not, the
# digits that you have just seen stand in. Pixels are drawn as 0 or 1, anew in each epoch, as is
# usual for MNIST, and so the likelihood is Bernoulli.


# %%
def has_mnist():
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    folder = os.environ.get("PVAE_DATA")
    return bool(folder) and all(
        (Path(folder).expanduser() / "mnist" / f"{name}-ubyte.gz").is_file() for name in names
    )


if has_mnist():
    data, epochs = pvae.data.load("mnist", binarize="dynamic"), 1 if SHORT else 5
else:
    print("MNIST is skipped: it is not in $PVAE_DATA. The small digits stand in")
    data, epochs = pvae.data.load("digits", binarize="dynamic"), 2 if SHORT else 50
model = pvae.models.VAE(x_shape=data.x_shape, z_dim=20, hidden=HIDDEN, likelihood="bernoulli")
guide = pvae.guides.MeanField(x_shape=data.x_shape, z_dim=20, hidden=HIDDEN)
fit = pvae.fit(model, guide, data, epochs=epochs)
bound = pvae.elbo(fit.model, fit.guide, data.test)
print(f"{data.name}: {len(data.train)} to train on, {epochs} epochs")
print(f"test ELBO {bound.mean:.2f} +- {bound.std_error:.2f} nats per datum")
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
# 5. With MNIST at hand: `hidden=400` and `epochs=20`. How many nats does the rest of training give?
