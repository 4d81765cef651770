"""What is my model worth, and how sure am I of it?"""

# %% [markdown]
# # Evaluation
#
# Training maximizes a bound on log p(x). The bound is easy to have and easy to misread: it mixes up
# what the model is worth with how well the recognition network follows it. This script takes one
# small VAE and asks, in turn: what is the bound, what is the likelihood, between which numbers does
# it certainly lie, what is the latent space used for, and is the recognition network right? The
# pictures go to the folder `figures`.

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch

import pvae

SHORT = os.environ.get("PVAE_SHORT") == "1"  # a quick pass through every cell
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
# Two errors stand beside the mean. The first is about the data: another test set of this size would
# give another number. The second is about the Monte Carlo: another seed would. Comparing two models
# on the *same* data, take the difference datum by datum; most of the first error cancels in it.

# %%
bound = pvae.elbo(*pair, test, num_particles=100)
print(f"ELBO {bound.mean:.2f}, data {bound.std_error:.2f}, Monte Carlo {bound.mc_error:.3f} nats")
for site, value in bound.sites.items():
    print(f"  {site}: {value:.2f}")

# %% [markdown]
# `x` is the expected log-likelihood, `z` is minus the divergence from posterior to prior. A bound
# can only be compared with a bound: a better guide raises it, and the model is the same.
#
# ## The likelihood
#
# Importance sampling with the guide as proposal estimates log p(x) itself. It is low in expectation
# too, and climbs toward log p(x) as the particles grow: a number without its K says little.

# %%
counts = [1, 10, 100] if SHORT else [1, 3, 10, 30, 100, 300, 1000, 3000]
sampled = [pvae.log_likelihood(*pair, test, num_particles=count) for count in counts]
for count, estimate in zip(counts, sampled, strict=True):
    print(f"K = {count:>4}: {estimate.mean:.3f} nats (Monte Carlo {estimate.mc_error:.3f})")

# %% [markdown]
# Is the last one near enough? Each datum's weights say so themselves. Where a guide has thinner
# tails than the posterior, a few particles carry the whole estimate; the shape k of the weights'
# tail tells, and above 0.7 neither the estimate of that datum nor its error can be trusted.

# %%
best = sampled[-1]
print(f"effective samples: {best.ess.min().item():.0f} to {best.ess.max().item():.0f}")
print(f"k: median {best.khat.median().item():.2f}, largest {best.khat.max().item():.2f}")
print(best.warning or "every datum can be trusted")

# %% [markdown]
# ## Two-sided bounds
#
# Annealing takes chains from the guide to the posterior through a path of densities, and weighs
# them. It is low in expectation as well, but does not depend on the guide's tails as much. And it
# can be run backwards from an exact draw of the posterior, which there is for data that the model
# itself has drawn: then it is *high* in expectation, and log p(x) lies in between. If the gap is
# small on the model's own data, the lower number can be believed on data that look like them.

# %%
some = test.arguments(torch.arange(10 if SHORT else 50))
steps = 20 if SHORT else 200
annealed = pvae.ais(*pair, some, num_particles=8, num_temperatures=steps)
again = pvae.log_likelihood(*pair, some, num_particles=counts[-1])
print(f"the same {len(some[0])} digits: AIS {annealed.mean:.2f}, importance {again.mean:.2f}")
sandwich = pvae.bdmc(*pair, some, num_particles=8, num_temperatures=steps)
low, high = sandwich.lower.mean, sandwich.upper.mean
print(f"simulated digits: log p(x) between {low:.2f} and {high:.2f}, gap {sandwich.gap.mean:.3f}")

figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
axes.errorbar(counts, [e.mean for e in sampled], [2 * e.mc_error for e in sampled], marker="o")
axes.axhline(bound.mean, color="gray", linestyle="--", label="ELBO")
axes.set(xscale="log", xlabel="particles K", ylabel="nats per digit", title="Importance sampling")
axes.legend()
figure.savefig(FIGURES / "08_particles.png", dpi=150)

# %% [markdown]
# ## What the latent space is used for
#
# A coordinate whose posterior mean does not move with the data is not used. The divergence that the
# bound pays for splits into what z says about x, and how far the posteriors of all data together
# are from the prior: samples from the prior look wrong where that second part is large.

# %%
use = pvae.evaluation.latent_use(*pair, test)
activity = use.active.sites["z"]
print(f"{activity.count} of {len(activity.variance)} units are active; KL {-bound.sites['z']:.2f}")
assert use.information is not None
print(f"mutual information {use.information.mutual_information.mean:.2f} nats, at most ", end="")
print(f"{use.information.ceiling:.2f}; posterior to prior {use.information.aggregated.mean:.2f}")
print("collapsed:", use.collapsed or "no site")

# %% [markdown]
# ## Is the guide right?
#
# On the model's own data the truth is known: the z that made x. Among draws from q(z | x) its rank
# is uniform if the guide is the posterior. A hump says that the guide is too wide, a bowl that it
# is too narrow, a slope that it is off. A mean-field guide is too narrow as a rule: it cannot lean.

# %%
ranks = pvae.evaluation.calibration(*pair, test, num_data=200 if SHORT else 2000)
print(ranks.sentence)
figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
bins = ranks.sites["z"].histogram.sum(0)
axes.bar(range(len(bins)), bins / bins.sum() * len(bins))
axes.axhline(1, color="black", linewidth=1)
axes.set(
    xlabel="rank of the true z among draws, in bins", ylabel="over uniform", title="Calibration"
)
axes.set_xticks(range(0, len(bins), 5))
figure.savefig(FIGURES / "08_calibration.png", dpi=150)

# %% [markdown]
# How much of the bound is lost to sharing one network among all data? Fit the same family to each
# datum by itself, and see how far the bound rises.

# %%
gap = pvae.evaluation.amortization_gap(*pair, some, num_steps=50 if SHORT else 500)
print(f"amortization gap {gap.mean:.2f} nats: from {gap.guide:.2f} to {gap.fitted:.2f}")

# %% [markdown]
# ## A likelihood that is known
#
# None of this has to be believed. Where log p(x) is known in closed form, as in a linear model with
# Gaussian noise, the estimators can be held against it; the project's tests do so for each.

# %%
slope = torch.tensor([1.0, 2.0, -1.0])


def linear_model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
        pyro.sample("x", dist.Normal(z[:, None] * slope, 0.5).to_event(1), obs=x)


def linear_guide(x):  # the posterior's mean, and 1.3 times its width
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
print(f"ELBO {pvae.elbo(*linear, x, 100).mean:.3f}, gap of the sandwich {between.gap.mean:.3f}")


# %% [markdown]
# ## Reading published numbers
#
# "MNIST, -86 nats" is not one experiment. Before two numbers are compared, these must be the same:
#
# - the data: binarized once and for all, or anew each time it is seen; grey levels are another
#   model altogether, in bits per dimension;
# - the split: some train on the validation images too;
# - the estimate: a bound, importance sampling (with which K?), or annealing;
# - the choice of the checkpoint: by the test set's own bound, or without looking at it.
#
# `pvae evaluate RUN` prints all of the above for a run, each number with its errors, its sample
# size and the kind of bound that it is; `--full` adds what takes minutes, `--json` is for scripts.
