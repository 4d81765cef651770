"""Uncertain weights: maximum likelihood, MAP and variational Bayes of a decoder, on few data."""

# %% [markdown]
# # Uncertain weights
#
# After this tutorial you will be able to treat the weights of a decoder as latent variables, to
# train them by maximum likelihood, maximum a posteriori or variational Bayes, and to compare the
# three by the one number that is fair to all: the predictive density of data not seen.
#
# So far, z was uncertain and the weights w were not. But w is estimated from N data, and with small
# N it is far from certain. A Bayesian treats both alike (Kingma, Welling, "Auto-Encoding
# Variational Bayes", 2013, appendix F, https://arxiv.org/abs/1312.6114):
#
#     p(x, z, w) = p(w) prod_n p(z_n) p(x_n | z_n, w),    q(z, w | x) = q(w) prod_n q(z_n | x_n)
#     log p(x_1, ..., x_N) >= E_q[sum_n (log p(x_n, z_n | w) - log q(z_n | x_n))] - KL(q(w) || p(w))
#
# w is *global*: one draw for all data, and one KL term for all of them. In a minibatch of M rows
# the sum over data is scaled by N / M and the KL term is not; `pvae.fit` sees from the plates which
# sites are which. The figures go to the folder `figures`.

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import nn

import pvae

SHORT = os.environ.get("PVAE_SHORT") == "1"  # the tests run a short version
FIGURES = Path("figures")
FIGURES.mkdir(exist_ok=True)
digits = pvae.data.load("digits", binarize="threshold")
size = {"x_shape": digits.x_shape, "z_dim": 4, "hidden": 64}
NUMBERS = (50, 200) if SHORT else (50, 100, 200, 400, 800, 1437)
STEPS = 150 if SHORT else 5000
test = digits.test[: 40 if SHORT else 360]

# %% [markdown]
# ## Three ways to treat w
#
# `BayesianVAE` samples its weights at sites "w1", "w2", ... outside the data plate. The guide
# `Weights` decides what they are:
#
# - "ml": a point, with the prior left out: maximum likelihood, what a VAE does.
# - "map": a point, with the prior: maximum a posteriori, known as weight decay.
# - "variational": a Gaussian with independent dimensions for all weights.


# %%
def train(kind, rows, seed=0, scale=1.0):
    torch.manual_seed(seed)
    model = pvae.models.BayesianVAE(**size, scale=scale)
    guide = pvae.guides.Weights(model, kind=kind, **size)
    epochs = max(1, STEPS * 50 // rows)
    return pvae.fit(
        model, guide, digits.train[:rows], epochs=epochs, batch_size=50, learning_rate=3e-3,
        seed=seed, progress=False,
    )  # fmt: skip


# %% [markdown]
# ## What the training data say, and what new data say
#
# The predictive density of a new datum averages over what is not known of w:
#
#     log p(x* | data) = log E_q(w)[p(x* | w)],   p(x* | w) = integral of p(x* | z, w) p(z)
#
# `pvae.log_predictive` draws w from q(w) and estimates the inner integral by importance sampling.
# For a point the outer average has one term.

# %%
KINDS = ("ml", "map", "variational")
DRAWS = 2 if SHORT else 20
results = {kind: [] for kind in KINDS}
for rows in NUMBERS:
    for kind in KINDS:
        fit = train(kind, rows)
        draws = DRAWS if kind == "variational" else 1
        on = {}
        for name, data in (("training", digits.train[: min(rows, 200)]), ("new", test)):
            on[name] = pvae.log_predictive(fit.model, fit.guide, data, draws, 50).mean
        results[kind].append(on)

print("log predictive density, nats per datum")
print("rows   " + "".join(f"{kind + ', seen':>20}{kind + ', new':>20}" for kind in KINDS))
for place, rows in enumerate(NUMBERS):
    values = [results[kind][place][name] for kind in KINDS for name in ("training", "new")]
    print(f"{rows:<7}" + "".join(f"{value:>20.2f}" for value in values))

figure, ax = plt.subplots(figsize=(6.5, 4), layout="constrained")
for number, kind in enumerate(KINDS):
    for name, style in (("training", "--"), ("new", "-")):
        values = [found[name] for found in results[kind]]
        ax.plot(NUMBERS, values, style, color=f"C{number}", marker="o", label=f"{kind}, {name}")
ax.set(xscale="log", xlabel="rows of training data", ylabel="nats per datum")
ax.set(title="log predictive density")
ax.legend(fontsize=8)
figure.savefig(FIGURES / "10_predictive.png", dpi=120)

# %% [markdown]
# The distance between a dashed and a solid line is overfitting. Maximum likelihood has most of it:
# with 50 digits it describes those well and new ones badly. The variational treatment describes
# both about as well. It does not win everywhere: on new data the point with a prior is often as
# good, and with many rows better, since a Gaussian with independent dimensions is a poor posterior
# of weights. With all data the three come near each other, as the posterior of w becomes narrow.
#
# ## Which weights are certain?
#
# A weight whose posterior is as wide as its prior was not learned from the data: its KL term is
# zero. Variational Bayes switches off what it does not need, and the bound says how much of the
# decoder is used.

# %%
fits = {rows: train("variational", rows) for rows in (NUMBERS[0], NUMBERS[-1])}
figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained", sharey=True)
for ax, (rows, fit) in zip(axes, fits.items(), strict=True):
    q = pvae.posterior(fit.guide, test)
    for site in ("w1", "w2"):
        scale = q[site].stddev.flatten()
        ax.hist(scale.numpy(), bins=40, alpha=0.6, label=site)
        used = (scale < 0.5).float().mean().item()
        print(f"{rows:>5} rows, {site}: posteriors narrower than half of the prior: {used:.0%}")
    ax.set(title=f"{rows} rows", xlabel="standard deviation of q(w) (that of the prior is 1)")
    ax.legend()
axes[0].set_ylabel("weights")
figure.savefig(FIGURES / "10_certainty.png", dpi=120)

# %% [markdown]
# ## Draws that show the uncertainty
#
# Draw one w, then several digits with it; repeat with other draws of w. What differs between the
# rows of a picture is z; what differs between pictures is what the data left open about w.

# %%
figure, axes = plt.subplots(2, 3, figsize=(9, 3.4), layout="constrained")
like = torch.zeros(10, *digits.x_shape)
for row, (rows, fit) in zip(axes, fits.items(), strict=True):
    for number, ax in enumerate(row):
        torch.manual_seed(number)
        weights = {s: q.sample() for s, q in pvae.posterior(fit.guide, test).items() if s != "z"}
        torch.manual_seed(7)  # the same z in each picture
        drawn = pvae.sample(fit.model, like, given=weights, mean=True)["x"]
        strip = nn.functional.pad(drawn, (1, 1, 1, 1), value=0.5)
        ax.imshow(torch.cat([torch.cat(list(part), 1) for part in strip.split(5)]), cmap="gray")
        ax.set(xticks=[], yticks=[], title=f"{rows} rows, draw {number + 1} of w")
figure.savefig(FIGURES / "10_draws.png", dpi=120)

# %% [markdown]
# ## What to try next
#
# 1. Repeat the comparison with `scale=0.3` and `scale=3.0`. Expect maximum likelihood not to mind:
#    it has no prior of weights.
# 2. Give `hidden` of 512. Expect maximum likelihood to overfit more, and variational Bayes less
#    than it: weights that the data do not determine stay at their prior.
# 3. `pvae.log_predictive(..., joint=True)` evaluates all new data with the same draw of w. Expect a
#    few draws to dominate it: log-weights of all data differ by as many nats as data.
#
# Not said here: posteriors of weights that are not Gaussian, for which Pyro's autoguides and
# `pyro.infer.MCMC` take the same model.
