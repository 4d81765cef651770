"""How does a gradient pass through a random draw, and how large is its variance?"""

# %% [markdown]
# # The reparameterization trick
#
# The bound is an expectation over draws of z, and the guide's parameters determine the distribution
# of these draws. Its gradient for the guide is therefore the gradient of an expectation whose
# *distribution* depends on the parameters. There are two ways to estimate it from draws. Both are
# unbiased, but their variances differ by factors that decide whether a network can be trained. This
# script takes one small VAE and one batch, draws each estimator's gradient for that batch many
# times, and measures the variance. After this tutorial you will be able to choose an estimator by
# the variance of its gradient. The figures go to the folder `figures`.

# %%
import math
import os
from pathlib import Path

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
from torch import nn

import pvae
from pvae import objectives

SHORT = os.environ.get("PVAE_SHORT") == "1"  # the tests run a short version
FIGURES = Path("figures")
FIGURES.mkdir(exist_ok=True)
DRAWS = 40 if SHORT else 300  # draws of each gradient
digits = pvae.data.load("digits", binarize="threshold")

# %% [markdown]
# ## Two estimators
#
# Let f(z) = log p(x, z) - log q(z | x), and let phi be the guide's parameters; we drop x.
#
#     score function:   d/dphi E_q[f(z)] = E_q[f(z) dlog q(z)/dphi]
#     reparameterized:  z = g(e, phi) with e ~ p(e),  d/dphi E_q[f(z)] = E_e[d/dphi f(g(e, phi))]
#
# The second is also called the pathwise estimator. (f also depends on phi directly, through log q;
# this adds a term of zero mean.) The score function needs only the values of f: z may be discrete,
# and f a black box. But values tell only how good a draw was, not in which direction a better one
# lies. The pathwise estimator needs a gradient of f and draws that are a smooth function of noise,
# such as z = loc + scale * e for a Gaussian. In return it uses that direction.
#
# In Pyro the distribution selects the estimator: `Normal` has `has_rsample = True`, and its draws
# carry a gradient. The subclass below sets it to `False`, so its draws carry none. Nothing else
# changes: the model, the networks, the batch and the distribution of the draws stay the same.


# %%
class Scored(dist.Normal):
    """A Normal whose draws carry no gradient."""

    has_rsample = False


Z_DIM = 4


def make():
    """A model, two guides that use the same encoder, and the encoder's parameters."""
    torch.manual_seed(0)
    decoder = pvae.nn.MLP(Z_DIM, 64, digits.x_shape[0] * digits.x_shape[1])
    encoder = pvae.nn.MLP(digits.x_shape[0] * digits.x_shape[1], 64, 2 * Z_DIM)

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(Z_DIM), 1.0).to_event(1))
            logits = decoder(z).unflatten(-1, digits.x_shape)
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(2), obs=x)

    def guide(x, normal=dist.Normal):
        pyro.module("encoder", encoder)
        loc, log_scale = encoder(x.flatten(1)).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", normal(loc, log_scale.exp()).to_event(1))

    def scored(x):
        guide(x, Scored)

    return model, guide, scored, list(encoder.parameters())


# %% [markdown]
# ## Black-box variational inference
#
# Black-box variational inference (Ranganath, Gerrish, Blei, "Black Box Variational Inference",
# 2014, https://arxiv.org/abs/1401.0118) made the score function practical by two variance
# reductions. The plain estimator multiplies the score of *every* datum's draw by the f of the
# *whole* batch. The first reduction drops the terms that do not depend on a draw from the factor of
# its score, so each datum has its own f (Rao-Blackwellization). The second subtracts a number b
# that does not depend on the draw. Since E_q[dlog q(z)/dphi] = 0, the mean stays the same:
#
#     E_q[f(z) dlog q(z)/dphi] = E_q[(f(z) - b) dlog q(z)/dphi]
#
# The paper fits such a number to the draws for each parameter. A *baseline* b is the same idea: an
# estimate of the expected f. `pvae.objectives.REINFORCE` always uses each datum's own f. Its
# baselines are "none", "moving_average" (of f in recent batches), "leave_one_out" (the mean f of
# the other draws for the same datum) and "network".
#
# To measure the effect of the first reduction, we undo it. An objective of your own needs one
# method, which maps draws to a bound for each datum and to a surrogate whose gradient is the
# estimate.


# %%
class WholeBatch(objectives.Objective):
    """The score function with the log-weight of the whole batch as factor."""

    def estimate(self, pair, batch):
        draw = pair.particles.draw(batch, self.num_particles)
        signal = draw.log_weights.detach().sum(1, keepdim=True)  # (particles, 1)
        surrogate = draw.log_weights + signal * draw.score
        return objectives.PerDatum(draw.log_weights.mean(0), surrogate.mean(0), draw.global_terms)


# %% [markdown]
# ## Two reparameterized estimators
#
# Kingma and Welling, "Auto-Encoding Variational Bayes" (2013), https://arxiv.org/abs/1312.6114,
# define two forms of the reparameterized bound:
#
#     A: mean over L draws of log p(x, z) - log q(z | x)                 ELBO(kl="monte_carlo")
#     B: mean over L draws of log p(x | z), minus KL(q(z | x) || p(z))   ELBO(kl="analytic")
#
# B uses a closed form of the divergence, which exists for a Gaussian guide and prior. A third
# estimator, "sticking the landing" (`STL`), is A without one term: the gradient of log q(z | x)
# with respect to phi at fixed z. The term has zero mean, but not zero variance.
#
# ## Measurement
#
# The gradient for the encoder is a long vector. We report the sum of the variances of its elements,
# for a loss in nats per datum. All estimators use two draws per datum.

# %%


def gradients(objective, model, guide, parameters, x, count=DRAWS):
    """Independent draws of a gradient, shape (count, number of parameters)."""
    found = []
    for number in range(-20, count):  # the first 20 only warm up the moving average
        loss = objective.differentiable_loss(model, guide, x) / len(x)
        parts = torch.autograd.grad(loss, parameters)
        if number >= 0:
            found.append(torch.cat([part.flatten() for part in parts]))
    return torch.stack(found)


def variance(draws):
    return draws.var(0).sum().item()


# Whether the estimator needs the scored guide, and its objective for a number of draws.
ESTIMATORS = {
    "score, f of the whole batch": (True, WholeBatch),
    "score, no baseline": (True, lambda n: objectives.REINFORCE(n, baseline="none")),
    "score, moving average": (True, lambda n: objectives.REINFORCE(n, baseline="moving_average")),
    "score, leave one out": (True, lambda n: objectives.REINFORCE(n, baseline="leave_one_out")),
    "path, A: Monte Carlo": (False, objectives.ELBO),
    "path, B: analytic KL": (False, lambda n: objectives.ELBO(n, kl="analytic")),
    "path, STL": (False, objectives.STL),
}

model, guide, scored, encoder = make()
x = digits.train.first(100)[0]


def measure(when):
    print(f"{when}, bound {pvae.elbo(model, guide, digits.test, num_particles=10).mean:.2f}:")
    found = {}
    for name, (by_score, objective) in ESTIMATORS.items():
        found[name] = gradients(objective(2), model, scored if by_score else guide, encoder, x)
        print(f"  {name:<30}variance {variance(found[name]):12.3f}")
    return found


untrained = measure("untrained")
pvae.fit(model, guide, digits, epochs=20 if SHORT else 200, learning_rate=3e-3, progress=False)
trained = measure("trained")

# %% [markdown]
# For the score function, each reduction cuts the variance by orders of magnitude. The pathwise
# estimators have a variance a few times smaller again. A moving average, which is the same for all
# digits, helps less after training, because the digits then differ in their bound; "leave one out"
# has a baseline for each digit and is the better one. B is far better than A while the guide is
# near the prior. Near the optimum most of that advantage is gone, and STL is the best.
#
# All estimators estimate the same gradient. To check this, we compare the means of two estimators:
# their squared distance divided by its expectation should be about 1.

# %%
for name in ("score, leave one out", "path, B: analytic KL", "path, STL"):
    one, other = trained["path, A: Monte Carlo"], trained[name]
    apart = (one.mean(0) - other.mean(0)).square().sum().item()
    print(f"A and {name}: {apart / ((variance(one) + variance(other)) / len(one)):.2f}")

# %% [markdown]
# ## More draws
#
# With L draws per datum, the variance of every estimator that averages draws falls as 1/L (grey
# lines). That is slow: an estimator with ten times the variance needs ten times the draws. With a
# batch of a hundred digits, L = 1 is the usual choice, since the batch also averages. ("Leave one
# out" falls faster at first, because its baseline improves with L.)

# %%
COUNTS = (1, 2, 4, 8) if SHORT else (1, 2, 4, 8, 16, 32)
curves = {}
for name in ("score, no baseline", "score, leave one out", "path, A: Monte Carlo", "path, STL"):
    by_score, objective = ESTIMATORS[name]
    counts = COUNTS[1:] if "leave" in name else COUNTS
    curves[name] = (
        counts,
        [
            variance(gradients(objective(n), model, scored if by_score else guide, encoder, x))
            for n in counts
        ],
    )
for name, (counts, values) in curves.items():
    ratio = values[0] / values[-1]
    print(f"{name:<24}L from {counts[0]} to {counts[-1]}: variance {ratio:.1f} times smaller")

INK = {"score": "tab:orange", "path": "tab:blue"}
figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.6), layout="constrained")
for place, name in enumerate(ESTIMATORS):
    values = variance(untrained[name]), variance(trained[name])
    colour = INK[name.split(",")[0]]
    left.plot(values, (place, place), color=colour, alpha=0.4)
    left.plot(values[0], place, "o", color=colour, markerfacecolor="white")
    left.plot(values[1], place, "o", color=colour)
left.plot([], [], "o", color="black", markerfacecolor="white", label="untrained")
left.plot([], [], "o", color="black", label="trained")
left.set_yticks(range(len(ESTIMATORS)), list(ESTIMATORS))
left.invert_yaxis()
left.legend()
left.set(xscale="log", xlabel="variance of the guide's gradient", title="Two draws per digit")
for (name, (counts, values)), line in zip(curves.items(), ("-", "--", "-", "--"), strict=True):
    slope = [values[-1] * counts[-1] / n for n in counts]
    right.plot(counts, slope, color="lightgray", linewidth=4, zorder=0)
    right.plot(counts, values, line, marker="o", color=INK[name.split(",")[0]], label=name)
right.plot([], [], color="lightgray", linewidth=4, label="as 1/L")
right.set(xscale="log", yscale="log", xlabel="draws L per digit", title="Trained")
right.set_ylim(bottom=right.get_ylim()[0] / 100)  # room for the legend
right.set_xticks(COUNTS, [str(n) for n in COUNTS])
right.minorticks_off()
right.legend(fontsize="small", loc="lower left", ncols=2)
figure.savefig(FIGURES / "03_variance.png", dpi=150)

# %% [markdown]
# ## Effect on training
#
# We train the same networks from the same initial values with four estimators. All use one draw per
# datum, except "leave one out", which needs two.

# %%
TRAINED = {
    "path, B": (False, lambda: objectives.ELBO(kl="analytic")),
    "score, leave one out": (True, lambda: objectives.REINFORCE(2, baseline="leave_one_out")),
    "score, moving average": (True, lambda: objectives.REINFORCE(baseline="moving_average")),
    "score, no baseline": (True, lambda: objectives.REINFORCE(baseline="none")),
}
EPOCHS = 15 if SHORT else 60
histories = {}
for name, (by_score, objective) in TRAINED.items():
    model, guide, scored, _ = make()
    fit = pvae.fit(
        model,
        scored if by_score else guide,
        digits,
        objective=objective(),
        epochs=EPOCHS,
        learning_rate=3e-3,
        progress=False,
    )
    histories[name] = [row["valid_elbo"] for row in fit.history]
    print(f"{name:<24}validation bound {histories[name][-1]:.2f} after {EPOCHS} epochs")

# %% [markdown]
# ## Near the optimum
#
# Why is STL the best there? If q(z | x) equals the posterior, then f(z) = log p(x, z) - log q(z |
# x) equals log p(x) for every z: the bound has no variance. The gradient of A still has variance,
# entirely from the term with zero mean. STL omits it, so its gradient has no variance. The
# mean-field guide above never equals the posterior. For a linear model with Gaussian noise the
# posterior is known: we start from it, multiply its scale by a factor, and let the factor go to 1.

# %%
SLOPE = torch.tensor([1.0, 2.0, -1.0])
PRECISION = 1 + (SLOPE @ SLOPE).item()  # of the posterior, for noise of scale 1


class Linear(nn.Module):
    """p(z) = N(0, 1), p(x | z) = N(SLOPE z, I); q is the posterior with its scale times factor."""

    def __init__(self, factor):
        super().__init__()
        self.weight = nn.Parameter(SLOPE / PRECISION)
        self.log_scale = nn.Parameter(torch.tensor(math.log(factor) - 0.5 * math.log(PRECISION)))

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z[..., None] * SLOPE, 1.0).to_event(1), obs=x)

    def guide(self, x, normal=dist.Normal):
        pyro.module("guide", self)
        with pyro.plate("data", len(x)):
            pyro.sample("z", normal(x @ self.weight, self.log_scale.exp()))

    def scored(self, x):
        self.guide(x, Scored)


FACTORS = (1.3, 1.1, 1.03, 1.01) if SHORT else (2.0, 1.5, 1.3, 1.1, 1.05, 1.03, 1.01)
observed = pvae.sample(Linear(1.0).model, torch.zeros(100, 3))["x"]
NEAR = [name for name in ESTIMATORS if "leave" in name or "path" in name]
landing = {name: [] for name in NEAR}
for factor in FACTORS:
    with pyro.get_param_store().scope():  # each guide registers the same names
        pair = Linear(factor)
        for name in NEAR:
            by_score, objective = ESTIMATORS[name]
            draws = gradients(
                objective(2),
                pair.model,
                pair.scored if by_score else pair.guide,
                list(pair.parameters()),
                observed,
            )
            landing[name].append(variance(draws))
gaps = [(f**2 - 1) / 2 - math.log(f) for f in FACTORS]  # KL(q || posterior), in nats per datum
for name, values in landing.items():
    print(f"{name:<24}variance {values[0]:.2e} at a KL of {gaps[0]:.2e}, ", end="")
    print(f"{values[-1]:.2e} at {gaps[-1]:.2e}")

figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.6), layout="constrained")
LINES = {"path, B": "-", "score, leave one out": "-", "score, moving average": "--"}
for name, values in histories.items():
    colour = INK[name.split(",")[0]]
    epochs = range(1, EPOCHS + 1)
    left.plot(epochs, values, LINES.get(name, ":"), color=colour, label=name)
left.set(xlabel="epoch", ylabel="validation bound, nats", title="Training")
left.legend(fontsize="small")
for name, line in zip(NEAR, ("-", "-", "--", ":"), strict=True):
    colour = INK[name.split(",")[0]]
    right.plot(gaps, landing[name], line, marker="o", color=colour, label=name)
right.set(xscale="log", yscale="log", title="A linear model")
right.set(xlabel="KL(q || posterior), nats", ylabel="variance of the gradient")
right.legend(fontsize="small")
figure.savefig(FIGURES / "03_training.png", dpi=150)

# %% [markdown]
# ## Which estimator to use
#
# - If draws have a gradient: `ELBO()`, with `kl="analytic"` if a closed form exists, or `STL()`
#   once the guide is good. The default is right for most pairs.
# - If draws have no gradient, as for Bernoulli units: the score function with a baseline, or one of
#   the estimators that tutorial 6 compares.
#
# pvae rejects the wrong one: `ELBO` with the scored guide raises an error that names the site.
# Pyro's own `Trace_ELBO` accepts both guides, and uses the score function for sites without a
# gradient.
#
# ## What to try next
#
# 1. Make z 16-dimensional. Expect the variance of the score function to grow: one number, the loss,
#    has to account for all dimensions.
# 2. Train with `REINFORCE(baseline="network", x_shape=digits.x_shape)`. Expect a bound between
#    those without a baseline and with reparameterization.
# 3. Pass `pvae.objectives.MovingAverage` with another `decay` as `baseline=`. Expect no change of
#    the mean of the gradient: a baseline that does not depend on z changes its variance alone.
# 4. Measure the Monte Carlo gradient of the divergence alone, with a likelihood that ignores z.
#    Expect it to dominate the variance of A where q is far from the prior.
# 5. Replace the weight of the linear model by a wrong one, so that q has the right scale and the
#    wrong mean. Expect the variance of STL not to vanish: it does so at the posterior alone.
#
# Not said here: discrete variables, which have no path (Helmholtz machines, labels), and the bias
# and variance of bounds with several importance samples (better posteriors).
