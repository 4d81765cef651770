"""What is a variational autoencoder, and how is one trained?"""

# %% [markdown]
# # A first variational autoencoder
#
# A *latent variable model* explains a picture x by a few hidden causes z: which digit it is, how
# far it slants, how thick the pen was. It draws a short vector z from a prior p(z), and then the
# picture from p(x | z). In a *variational autoencoder* a network computes p(x | z): the decoder. A
# second network, the encoder or recognition network, learns at the same time to infer the causes
# of a picture: q(z | x).
#
# In pvae both are ordinary Pyro programs. This script writes them, trains them on real handwritten
# digits, and looks at what they learned. After this tutorial you will be able to train a pair and
# to read its bound, its likelihood and its pictures. The figures go to the folder `figures`.

# %%
import os
import time
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch

import pvae

SHORT = os.environ.get("PVAE_SHORT") == "1"  # the tests run a short version
FIGURES = Path("figures")
FIGURES.mkdir(exist_ok=True)
torch.manual_seed(0)

# %% [markdown]
# ## Data
#
# The data are small pictures of digits that come with scikit-learn. Their grey levels are scaled to
# the range from 0 to 1. `valid` and `test` are held out: `valid` to monitor training, `test` to
# evaluate the trained pair. The labels only colour a figure; training never sees them.

# %%
digits = pvae.data.load("digits")
print(f"{len(digits.train)} training, {len(digits.valid)} validation, {len(digits.test)} test data")
height, width = digits.x_shape
print(f"{height} x {width} pixels, {digits.levels} grey levels")

# %% [markdown]
# ## The model p(x, z)
#
# The model has two `sample` statements. z has a standard Gaussian prior in two dimensions. The
# decoder maps z to the parameters of a distribution of x, and a *likelihood* builds that
# distribution from them. Grey levels are whole numbers, so we choose a likelihood that assigns a
# probability to each level: the discretized logistic, with a location and a scale for each pixel.
#
# - `pyro.module` registers the decoder's weights for training.
# - `pyro.plate("data", len(x))` declares the rows of a batch independent.
# - `.to_event(1)` declares that the two coordinates of z belong to one datum.

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
# The guide is a Gaussian over z; the encoder computes its mean and scale from the picture. The
# guide samples the site "z", as the model does. The site names are all that connects the two. A
# scale must be positive: the network's output is its logarithm. For outputs that may become large,
# `pvae.nn.positive` is the safer choice, since it grows linearly; the next tutorial uses it.

# %%
encoder = pvae.nn.MLP(height * width, (HIDDEN, HIDDEN), 4)  # loc and log_scale of 2 coordinates


def guide(x):
    pyro.module("encoder", encoder)
    loc, log_scale = encoder(x.flatten(1)).chunk(2, -1)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


# %% [markdown]
# ## The objective
#
# We would like to maximise log p(x), the *evidence*, but it is an integral over all z. The guide
# yields a lower bound that one draw of z estimates:
#
#     log p(x) = log E_q[p(x, z) / q(z | x)]
#             >= E_q[log p(x, z) - log q(z | x)]                       (Jensen)
#              = E_q[log p(x | z)] - KL(q(z | x) || p(z))  = the ELBO
#
# The first term rewards good reconstructions; the second keeps the codes near the prior. What the
# bound loses is known, too. By Bayes' rule p(x, z) = p(z | x) p(x), so that
#
#     ELBO = E_q[log p(x) + log p(z | x) - log q(z | x)]
#          = log p(x) - KL(q(z | x) || p(z | x)),
#
# since log p(x) does not depend on z. The bound is tight if the guide equals the posterior.
# Since z = loc + scale * noise, the gradient reaches both networks through the draw.
#
# ## Training
#
# `fit` averages the bound over a batch of digits, follows its gradient, and after each epoch
# evaluates the bound on `valid`. With `patience`, training stops when the validation bound has not
# risen for that many epochs, and `fit` keeps the networks of the best epoch.

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
print(f"validation bound after epoch 1:  {first['valid_elbo']:.2f} nats per datum")
print(f"best validation bound, epoch {fit.best_epoch}: {best['valid_elbo']:.2f}")
print("training bound minus validation bound:", end="")
print(f" {-best['train_loss'] - best['valid_elbo']:.2f} nats at the best epoch,", end="")
print(f" {-last['train_loss'] - last['valid_elbo']:.2f} at the last")
pvae.plots.learning_curve(fit.history).savefig(FIGURES / "01_learning_curve.png")

# %% [markdown]
# The gap between the two curves is overfitting. The training bound keeps rising while the
# validation bound stalls: the networks memorize the training digits.
#
# ## Evaluation
#
# We evaluate the bound on the test digits. It is the sum of two terms: the expected
# log-likelihood of a digit given its code (x), and minus the KL divergence of the codes from the
# prior (z). `log_likelihood` estimates the evidence itself by importance sampling; the estimate is
# above the ELBO and closer to log p(x). The number after +- is the standard error over data: how
# much the mean would vary between test sets of this size.

# %%
bound = pvae.elbo(fit.model, fit.guide, digits.test, num_particles=10)
evidence = pvae.log_likelihood(
    fit.model, fit.guide, digits.test, num_particles=50 if SHORT else 1000
)
print(f"ELBO            {bound.mean:8.2f} +- {bound.std_error:.2f} nats per datum")
for site, term in bound.sites.items():
    print(f"  {site:<14}{term:8.2f}")
print(f"log-likelihood  {evidence.mean:8.2f} +- {evidence.std_error:.2f}")
print(f"difference      {evidence.mean - bound.mean:8.2f}, about KL(q(z | x) || p(z | x))")

# %% [markdown]
# ## What the pair learned
#
# The figures show:
#
# - `01_reconstructions.png`: test digits above their reconstructions from two numbers each;
# - `01_samples.png`: digits sampled from the model; they look rough because each pixel is sampled
#   independently given z;
# - `01_latent_means.png`: the posterior means of the test digits in the latent space; the classes
#   separate although training used no labels;
# - `01_manifold.png`: the decoder's mean across the latent space.

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
# The zoo has this pair as two classes. Here we use 20 latent dimensions. MNIST has larger digits
# and many more of them. `pvae.data.load("mnist")` downloads missing files, so this script checks
# first: it uses MNIST if the folder `$PVAE_DATA` holds it, and the small digits otherwise. As is
# usual for MNIST, pixels are binarized at random in each epoch, so the likelihood is Bernoulli.


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
    print("$PVAE_DATA holds no MNIST: training on the small digits instead")
    data, epochs = pvae.data.load("digits", binarize="dynamic"), 2 if SHORT else 50
model = pvae.models.VAE(x_shape=data.x_shape, z_dim=20, hidden=HIDDEN, likelihood="bernoulli")
guide = pvae.guides.MeanField(x_shape=data.x_shape, z_dim=20, hidden=HIDDEN)
fit = pvae.fit(model, guide, data, epochs=epochs)
bound = pvae.elbo(fit.model, fit.guide, data.test)
print(f"{data.name}: {len(data.train)} training data, {epochs} epochs")
print(f"test ELBO {bound.mean:.2f} +- {bound.std_error:.2f} nats per datum")
x = data.test.first(12)[0]
rebuilt = pvae.reconstruct(fit.model, fit.guide, x)
pvae.plots.reconstructions(x, rebuilt).savefig(FIGURES / "01_zoo_reconstructions.png")

# %% [markdown]
# ## What to try next
#
# 1. Give z eight dimensions instead of two. Expect the term of x to rise by more than the KL term
#    grows, so that the bound rises.
# 2. Replace the guide by `pvae.guides.FullRank`. Expect a smaller gap: posteriors are tilted.
# 3. Use `pvae.likelihoods.Gaussian` for the grey levels. Expect another kind of number, which may
#    be positive: it is the logarithm of a density, and the one above is that of a probability.
# 4. Leave out `patience` and train three times as long. Expect the bound on training data to rise
#    on, and that on validation data to fall: with 1,444 digits the networks learn some by heart.
#
# Not said here: how to choose a likelihood for data that are no images (the next tutorial), how a
# gradient passes through a draw (the third), and how far the numbers can be trusted (evaluation).
