"""How good is my model, and how accurate are the numbers that say so?"""

# %% [markdown]
# # Evaluation
#
# Training maximizes a bound on log p(x). The bound is easy to compute and easy to misread: it
# depends on the model and on how closely the guide approximates the posterior. This script takes
# one small VAE and asks in turn: What is the bound? What is the likelihood, and which bounds
# enclose it? What does the latent space encode? Is the guide calibrated? After this tutorial you
# will be able to say how good a pair is, and how far each number can be trusted. The figures go to
# the folder `figures`.

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch

import pvae

SHORT = os.environ.get("PVAE_SHORT") == "1"  # the tests run a short version
FIGURES = Path("figures")
FIGURES.mkdir(exist_ok=True)
torch.manual_seed(0)

digits = pvae.data.load("digits", binarize="threshold")
model = pvae.models.VAE(x_shape=digits.x_shape, z_dim=6, hidden=64)
guide = pvae.guides.MeanField(x_shape=digits.x_shape, z_dim=6, hidden=64)
trained = pvae.fit(model, guide, digits, epochs=5 if SHORT else 100, progress=False)
pair = trained.model, trained.guide
test = digits.test
print(f"{len(test)} test digits of {test.arguments(torch.arange(1))[0].numel()} binary pixels")

# %% [markdown]
# ## The bound
#
# The mean has two errors. The first is over data: how much the mean would vary between test sets of
# this size. The second is the Monte Carlo error: how much it would vary between seeds. To compare
# two models on the *same* data, average the difference datum by datum; most of the first error
# cancels.

# %%
bound = pvae.elbo(*pair, test, num_particles=100)
errors = f"+- {bound.std_error:.2f} over data, +- {bound.mc_error:.3f} Monte Carlo"
print(f"ELBO {bound.mean:.2f} {errors} nats per datum")
for site, value in bound.sites.items():
    print(f"  {site}: {value:.2f}")

# %% [markdown]
# `x` is the expected log-likelihood, `z` is minus the KL divergence from posterior to prior.
# Compare a bound only with a bound: a better guide raises the bound of the same model.
#
# ## The likelihood
#
# Importance sampling with the guide as proposal estimates log p(x) itself. The estimate is also a
# lower bound in expectation, and rises toward log p(x) as the number of particles K grows. Always
# report K with it.

# %%
counts = [1, 10, 100] if SHORT else [1, 3, 10, 30, 100, 300, 1000, 3000]
sampled = [pvae.log_likelihood(*pair, test, num_particles=count) for count in counts]
for count, estimate in zip(counts, sampled, strict=True):
    print(f"K = {count:>4}: {estimate.mean:.3f} +- {estimate.mc_error:.3f} nats")

# %% [markdown]
# Is the last estimate accurate? The importance weights of each datum contain a diagnostic. If the
# guide has thinner tails than the posterior, a few particles dominate the estimate. The Pareto
# shape k describes the upper tail of the weights. If k is above 0.7 (a lower limit applies below
# 2,200 particles), neither the estimate for that datum nor its error is reliable.

# %%
best = sampled[-1]
print(f"effective samples per datum: {best.ess.min().item():.0f} to {best.ess.max().item():.0f}")
print(f"k: median {best.khat.median().item():.2f}, largest {best.khat.max().item():.2f}")
print(best.warning or "k is low enough for every datum")

# %% [markdown]
# ## Two-sided bounds
#
# Annealed importance sampling moves chains from the guide to the posterior through a sequence of
# intermediate densities, and weights them. It is also a lower bound in expectation, but depends
# less on the tails of the guide. It can also run in reverse, from an exact draw of the posterior,
# which is available for data sampled from the model. The reverse estimate is an *upper* bound in
# expectation, so log p(x) lies between the two. If the gap is small on data sampled from the model,
# the lower bound can be trusted on similar data.

# %%
some = test.arguments(torch.arange(10 if SHORT else 50))
steps = 20 if SHORT else 200
annealed = pvae.ais(*pair, some, num_particles=8, num_temperatures=steps)
again = pvae.log_likelihood(*pair, some, num_particles=counts[-1])
print(f"{len(some[0])} test digits: AIS {annealed.mean:.2f}, ", end="")
print(f"importance sampling {again.mean:.2f} nats")
sandwich = pvae.bdmc(*pair, some, num_particles=8, num_temperatures=steps)
low, high = sandwich.lower.mean, sandwich.upper.mean
print(f"simulated digits: log p(x) between {low:.2f} and {high:.2f}, gap {sandwich.gap.mean:.3f}")

figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
axes.errorbar(counts, [e.mean for e in sampled], [2 * e.mc_error for e in sampled], marker="o")
axes.axhline(bound.mean, color="gray", linestyle="--", label="ELBO")
axes.set(xscale="log", xlabel="particles K", ylabel="nats per digit", title="Importance sampling")
axes.legend()
figure.savefig(FIGURES / "09_particles.png", dpi=150)

# %% [markdown]
# ## The use of the latent space
#
# A coordinate is active if its posterior mean varies with the data. The KL of the bound is a sum of
# two parts: the mutual information of x and z, and the divergence from the aggregated posterior,
# the mixture of the posteriors of all data, to the prior. If the second part is large, samples from
# the prior do not look like data.

# %%
use = pvae.evaluation.latent_use(*pair, test)
activity = use.active.sites["z"]
print(f"{activity.count} of {len(activity.variance)} units active, KL {-bound.sites['z']:.2f} nats")
assert use.information is not None
print(f"mutual information {use.information.mutual_information.mean:.2f} nats ", end="")
print(f"(an estimate from {len(test)} data is at most {use.information.ceiling:.2f}), ", end="")
print(f"aggregated posterior to prior {use.information.aggregated.mean:.2f} nats")
print("collapsed sites:", use.collapsed or "none")

# %% [markdown]
# ## Calibration of the guide
#
# For data sampled from the model, the true z is known. If the guide equals the posterior, the rank
# of the true z among draws from q(z | x) is uniform. A hump in the histogram means that the guide
# is too wide, a U shape that it is too narrow, and a slope that it is biased. A mean-field guide is
# usually too narrow, because it cannot represent correlations.

# %%
ranks = pvae.evaluation.calibration(*pair, test, num_data=200 if SHORT else 2000)
print(ranks.sentence)
figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
bins = ranks.sites["z"].histogram.sum(0)
axes.bar(range(len(bins)), bins / bins.sum() * len(bins))
axes.axhline(1, color="black", linewidth=1)
axes.set(
    xlabel="rank of the true z (bins)", ylabel="frequency relative to uniform", title="Calibration"
)
axes.set_xticks(range(0, len(bins), 5))
figure.savefig(FIGURES / "09_calibration.png", dpi=150)

# %% [markdown]
# The amortization gap is the part of the bound that is lost because one network computes q(z | x)
# for all data. To measure it, we fit the same variational family to each datum separately.

# %%
gap = pvae.evaluation.amortization_gap(*pair, some, num_steps=50 if SHORT else 500)
print(f"amortization gap {gap.mean:.2f} nats: from {gap.guide:.2f} to {gap.fitted:.2f}")

# %% [markdown]
# ## A check against a known likelihood
#
# For some models log p(x) has a closed form, such as for a linear model with Gaussian noise. The
# estimators can be compared with it; the project's tests do so for each of them.

# %%
slope = torch.tensor([1.0, 2.0, -1.0])


def linear_model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
        pyro.sample("x", dist.Normal(z[:, None] * slope, 0.5).to_event(1), obs=x)


def linear_guide(x):  # the mean of the posterior and 1.3 times its scale
    precision = 1 + slope @ slope / 0.25
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x @ slope / 0.25 / precision, 1.3 * precision**-0.5))


x = pvae.sample(linear_model, torch.zeros(200, 3))["x"]
covariance = slope[:, None] * slope + 0.25 * torch.eye(3)
exact = dist.MultivariateNormal(torch.zeros(3), covariance).log_prob(x).mean().item()
linear = linear_model, linear_guide
estimate = pvae.log_likelihood(*linear, x, num_particles=1000)
between = pvae.bdmc(*linear, x[:50], num_particles=8, num_temperatures=50)
print(f"exact {exact:.3f}, importance sampling {estimate.mean:.3f} +- {estimate.mc_error:.3f}")
print(f"ELBO {pvae.elbo(*linear, x, 100).mean:.3f}, gap of the two bounds {between.gap.mean:.3f}")


# %% [markdown]
# ## Published numbers
#
# "MNIST, -86 nats" does not define an experiment. Two numbers are comparable only if they agree in:
#
# - the data: binarized once, or anew in each epoch; grey levels need another likelihood, reported
#   in bits per dimension;
# - the split: some authors also train on the validation images;
# - the estimate: a bound, importance sampling (with which K?), or annealed importance sampling;
# - the selection of the checkpoint: by the bound on the test set, or without the test set.
#
# `pvae evaluate RUN` prints a table of these quantities for a run: the value with its error, the
# kind of number (such as "lower bound"), and a remark with the sample size or a diagnostic.
# `--explain` adds an explanation of each line, `--full` the quantities that take minutes, and
# `--json` prints JSON instead.
#
# ## What to try next
#
# 1. Halve and double the scales of the guide, and look at the bound, at log p(x) and at the Pareto
#    diagnostic. Expect the narrow guide to be the worse proposal: it never visits the tails.
# 2. Evaluate the training data as well. Expect a higher bound; the difference is overfitting.
# 3. Give AIS ten times as many temperatures. Expect its estimate to rise towards the upper bound.
#
# Not said here: what one sees in draws and not in numbers, and quantities that compare draws with
# data, such as FID, which bound no likelihood.
