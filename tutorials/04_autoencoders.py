"""An autoencoder is not a VAE: what does the prior term change?"""

# %% [markdown]
# # An autoencoder is not a variational autoencoder
#
# After this tutorial you will be able to say what the two have in common, to measure what the
# KL term of a VAE does to the latent space, and to draw samples from an autoencoder by the one
# method that it has: a Markov chain.
#
# An *autoencoder* maps x to a code z and z back to x, and is trained to reconstruct. It uses the
# same two networks as a VAE. What is missing is a distribution: nothing says which codes are
# likely, so there is no p(x), no likelihood of a datum, and no way to draw a new one. The figures
# go to the folder `figures`.

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import pvae

SHORT = os.environ.get("PVAE_SHORT") == "1"  # the tests run a short version
FIGURES = Path("figures")
FIGURES.mkdir(exist_ok=True)
digits = pvae.data.load("digits", binarize="threshold")
train, test = digits.train.first(len(digits.train))[0], digits.test.first(len(digits.test))[0]
size = {"x_shape": digits.x_shape, "hidden": 32 if SHORT else 128}
training = {"epochs": 15 if SHORT else 150, "learning_rate": 2e-3, "progress": False}

# %% [markdown]
# ## The same networks, trained as both
#
# In pvae an autoencoder is a degenerate pair. Its guide is a point: q(z | x) has all its mass at
# encoder(x). Its model has no prior term: log p(z) counts zero. What remains of the ELBO is
# log p(x | encoder(x)), the negative reconstruction error:
#
#     VAE:          E_q[log p(x | z)] - KL(q(z | x) || p(z))
#     autoencoder:  log p(x | z)  at  z = encoder(x)
#
# We train both with a code of 2 numbers, which can be drawn, and with one of 16.


# %%
def train_both(z_dim):
    """An autoencoder and a VAE with networks of the same size."""
    torch.manual_seed(0)
    shape = {**size, "z_dim": z_dim}
    pairs = {
        "autoencoder": (pvae.models.Autoencoder(**shape), pvae.guides.Point(**shape)),
        "VAE": (pvae.models.VAE(**shape), pvae.guides.MeanField(**shape)),
    }
    return {name: pvae.fit(*pair, digits, seed=1, **training) for name, pair in pairs.items()}


flat, fits = train_both(2), train_both(16)


def reconstruction_error(fit):
    """Mean number of wrong pixels in reconstructions of test digits."""
    rebuilt = pvae.reconstruct(fit.model, fit.guide, test)
    return (rebuilt.round() != test).float().flatten(1).sum(1).mean().item()


def codes(fit, x):
    return pvae.infer(fit.guide, x)["z"]


print("wrong pixels of 64     2 numbers   16 numbers")
for name in fits:
    errors = reconstruction_error(flat[name]), reconstruction_error(fits[name])
    print(f"{name:<20}{errors[0]:>12.2f}{errors[1]:>13.2f}")

# %% [markdown]
# The autoencoder reconstructs better, as it is trained for nothing else. Its codes spread over a
# region of its own choice, with clusters and gaps. The codes of the VAE fill the region in which
# the prior has its mass.

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 4.2), layout="constrained")
for ax, (name, fit) in zip(axes, flat.items(), strict=True):
    z = codes(fit, test)
    points = ax.scatter(*z.T, c=digits.test.labels, cmap="tab10", s=12)
    ax.add_patch(plt.Circle((0, 0), 2, fill=False, linestyle="--"))
    ax.set(title=f"{name}: codes of test digits", xlabel="z1", ylabel="z2", aspect="equal")
    ax.set_box_aspect(1)
    ax.set_aspect("equal", adjustable="datalim")
figure.colorbar(points, ax=axes, label="digit")
figure.savefig(FIGURES / "04_codes.png", dpi=120)

# %% [markdown]
# The dashed circle has radius 2; 86 % of draws from a standard Gaussian prior fall within it.
#
# ## Drawing from both
#
# To draw from the VAE, draw z from p(z) and decode it. Let us do the same with the autoencoder.
# Two numbers describe the result, both in pixels that differ. How far is a drawn picture from the
# nearest training digit: does it look like a digit? And how far is a test digit from the nearest
# drawn picture: do the draws show all kinds of digits?


# %%
def distance(some, others):
    """Mean over some pictures of the number of pixels that differ from the nearest of others."""
    nearest = torch.cdist(some.round().flatten(1), others.round().flatten(1), p=1).min(1).values
    return nearest.mean().item()


torch.manual_seed(2)
z = torch.randn(400, 16)
blank = torch.zeros(len(z), *digits.x_shape)
drawn = {name: pvae.decode(fit.model, {"z": z}, blank) for name, fit in fits.items()}
print("pixels                        draw to digit   digit to draw")
for name, x in {"400 training digits": train[:400], **drawn}.items():
    print(f"{name:<29}{distance(x, train):>14.1f}{distance(test, x):>16.1f}")

# %% [markdown]
# (A training digit is 0 pixels from itself.) Nothing ties the codes of the autoencoder to the
# prior, and decoding draws from it shows whatever lies there: in the figure, one corner of the
# codes. A common repair is to fit a distribution to the codes after training, here a Gaussian with
# their mean and covariance. It covers all codes, and also the gaps between them, which the decoder
# has never been trained on. In two dimensions there are few gaps, and the repair works; in sixteen,
# most of the space is gap.

# %%
z = codes(fits["autoencoder"], train)
torch.manual_seed(2)
fitted = torch.distributions.MultivariateNormal(z.mean(0), torch.cov(z.T)).sample((400,))
drawn["autoencoder, fitted Gaussian"] = pvae.decode(fits["autoencoder"].model, {"z": fitted}, blank)
x = drawn["autoencoder, fitted Gaussian"]
print(f"{'autoencoder, fitted Gaussian':<29}{distance(x, train):>14.1f}{distance(test, x):>16.1f}")

# %% [markdown]
# ## The denoising autoencoder and its Markov chain
#
# There is one way to turn an autoencoder into a sampler. A *denoising* autoencoder is trained to
# recover x from a corrupted x', so its decoder approximates p(x | x'). Corrupt and reconstruct in
# turn, and the pictures form a Markov chain; its stationary distribution approximates that of the
# data (Bengio, Yao, Alain, Vincent, "Generalized Denoising Auto-Encoders as Generative Models",
# 2013, https://arxiv.org/abs/1305.6663). Each step must draw x from p(x | z), not take its mean.
#
# The guide `Point` adds Gaussian noise to its input in training. Evaluated, it adds none: the chain
# below adds the same noise itself.

# %%
NOISE, STEPS = 0.4, 40
wide = {**size, "z_dim": 16}
torch.manual_seed(0)
denoising = pvae.fit(
    pvae.models.Autoencoder(**wide),
    pvae.guides.Point(**wide, noise=NOISE),
    digits,
    seed=1,
    **training,
)


def step(x):
    """One step of the chain: corrupt, encode, decode, draw."""
    z = pvae.infer(denoising.guide, x + NOISE * torch.randn_like(x))["z"]
    return pvae.decode(denoising.model, {"z": z}, blank).bernoulli()


torch.manual_seed(3)
x = torch.rand_like(blank).round()
chain = [x]
for _ in range(STEPS):
    chain.append(step(chain[-1]))
for number in (0, 1, 5, STEPS):
    found = distance(chain[number], train), distance(test, chain[number])
    print(f"chain after {number:>2} steps         {found[0]:>14.1f}{found[1]:>16.1f}")

# %% [markdown]
# The chain starts from noise and moves to digits. Its pictures are draws from p(x | z), with the
# noise of each pixel, where the rows above are means, so its distances are larger. It needs many
# steps for what the VAE does in one, consecutive pictures resemble each other, and no number says
# how far the chain has come.

# %%
columns = 12
rows = {
    "VAE: decoded draws": drawn["VAE"],
    "autoencoder: the same z": drawn["autoencoder"],
    "autoencoder: fitted Gaussian": drawn["autoencoder, fitted Gaussian"],
    "denoising chain": chain[-1],
}
figure, axes = plt.subplots(len(rows), 1, figsize=(8, 4), layout="constrained")
for ax, (name, pictures) in zip(axes, rows.items(), strict=True):
    ax.imshow(torch.cat(list(pictures[:columns]), dim=1), cmap="gray_r", vmin=0, vmax=1)
    ax.set_title(name, fontsize=9, loc="left")
    ax.set_axis_off()
figure.savefig(FIGURES / "04_draws.png", dpi=120)

every = torch.linspace(0, STEPS, columns).long()
figure, axes = plt.subplots(3, 1, figsize=(8, 2.6), layout="constrained")
for ax, row in zip(axes, range(3), strict=True):
    ax.imshow(torch.cat([chain[number][row] for number in every], dim=1), cmap="gray_r")
    ax.set_axis_off()
figure.suptitle(f"three chains, from noise (left) to step {STEPS} (right)", fontsize=9)
figure.savefig(FIGURES / "04_chain.png", dpi=120)

# %% [markdown]
# ## What cannot be computed
#
# A VAE has a p(x), so the evidence of test digits can be estimated. The autoencoder has none, and
# pvae says so instead of returning a number.

# %%
vae, autoencoder = fits["VAE"], fits["autoencoder"]
evidence = pvae.log_likelihood(
    vae.model, vae.guide, digits.test, num_particles=50 if SHORT else 1000
)
print(f"VAE: log p(x) = {evidence.mean:.1f} +- {evidence.std_error:.1f} nats per datum")
try:
    pvae.log_likelihood(autoencoder.model, autoencoder.guide, digits.test)
except pvae.UndefinedQuantityError as error:
    print(f"autoencoder: {error}")

# %% [markdown]
# ## What to try next
#
# 1. Print `pvae.evaluation.active_units` of the VAE with 16 dimensions. Expect it to use some of
#    them: each costs a KL term. The autoencoder pays for none, and uses all.
# 2. Train `pvae.objectives.ELBO(beta=0.01)` on the VAE. The codes spread, and draws become as bad
#    as those of the autoencoder: beta interpolates between the two.
# 3. Set `contraction=0.1` in `Point` instead of noise. Expect codes in a smaller region.
# 4. Start the chain at a test digit. Expect it to stay in the class for some steps: the noise has
#    to carry it over to another one.
#
# Not said here: priors other than a Gaussian for the VAE (`pvae.priors`), and how good its q(z | x)
# is.
