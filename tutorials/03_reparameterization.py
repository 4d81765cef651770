"""How does a gradient get through a random draw, and what does each way cost in variance?"""

# %% [markdown]
# # The reparameterization trick
#
# The bound is an average over draws of z, and the guide's parameters decide where the draws fall.
# So its gradient for the guide is the gradient of an average whose *distribution* moves. There are
# two ways to estimate it from draws. Both are right on average; they differ in their variance, by
# factors that decide whether a network can be trained at all. This script takes one small VAE and
# one batch, draws the gradient of that batch again and again by each estimator, and measures.
# The pictures go to the folder `figures`.

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

SHORT = os.environ.get("PVAE_SHORT") == "1"  # a quick pass through every cell
FIGURES = Path("figures")
FIGURES.mkdir(exist_ok=True)
DRAWS = 40 if SHORT else 300  # of each gradient
digits = pvae.data.load("digits", binarize="threshold")

# %% [markdown]
# ## Two ways
#
# Write f(z) for log p(x, z) - log q(z | x), the guide's parameters as phi, and drop the x.
#
#     score function:   d/dphi E_q[f(z)] = E_q[f(z) dlog q(z)/dphi]
#     reparameterized:  z = g(e, phi) with e ~ p(e),  d/dphi E_q[f(z)] = E_e[d/dphi f(g(e, phi))]
#
# (f itself has phi in it too; that part, -E_q[dlog q(z)/dphi], is zero.) The first asks for nothing
# but the value of f: z may be discrete, f a black box. It is also blind: it learns that a draw was
# good, never in which direction a better one lies. The second needs a draw that can be written as a
# smooth function of noise, for a Gaussian z = loc + scale * e, and a gradient of f; it is told the
# direction.
#
# In Pyro the distribution says which one applies: `Normal` has `has_rsample = True`, and its draws
# carry a gradient. A Normal that says `False` is drawn without. That is all that is changed here:
# model, networks, batch, and the distribution of the draws are the same.


# %%
class Scored(dist.Normal):
    """A Normal whose draws have no gradient."""

    has_rsample = False


Z_DIM = 4


def make():
    """A model, and two guides with one and the same encoder."""
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
# ## The ancestor
#
# Black-box variational inference (Ranganath, Gerrish, Blei, "Black Box Variational Inference",
# 2014, https://arxiv.org/abs/1401.0118) is the score function made usable, by two repairs. As it
# stands, the score of *every* datum's draw is multiplied by the f of the *whole* batch. Terms that
# do not depend on a draw can be left out of what its score is multiplied with: each datum gets its
# own f (Rao-Blackwellization). And since E_q[dlog q(z)/dphi] = 0, any number b that does not depend
# on the draw may be taken off:
#
#     E_q[f(z) dlog q(z)/dphi] = E_q[(f(z) - b) dlog q(z)/dphi]
#
# There the number is fitted to the draws, parameter by parameter; a *baseline* is the same idea, b
# an estimate of the f to be expected. `pvae.objectives.REINFORCE` gives each datum its own f always
# and has the baselines "none", "moving_average" (of the f in the last batches), "leave_one_out"
# (the mean f of the other draws of the same datum) and "network".
#
# To see what the first repair is worth we undo it. An objective of one's own is one method: from
# draws to a bound for each datum, and to a surrogate whose gradient is the estimate.


# %%
class WholeBatch(objectives.Objective):
    """The score of each draw times the log-weight of the whole batch."""

    def estimate(self, pair, batch):
        draw = pair.particles.draw(batch, self.num_particles)
        signal = draw.log_weights.detach().sum(1, keepdim=True)  # (particles, 1)
        surrogate = draw.log_weights + signal * draw.score
        return objectives.PerDatum(draw.log_weights.mean(0), surrogate.mean(0), draw.global_terms)


# %% [markdown]
# ## The two estimators of the first VAE paper
#
# The reparameterized bound comes in two forms, both in Kingma and Welling, "Auto-Encoding
# Variational Bayes" (2013), https://arxiv.org/abs/1312.6114:
#
#     A: mean over L draws of log p(x, z) - log q(z | x)                 ELBO(kl="monte_carlo")
#     B: mean over L draws of log p(x | z), less KL(q(z | x) || p(z))    ELBO(kl="analytic")
#
# B has the divergence in closed form, which a Gaussian guide and prior allow. The third, "sticking
# the landing" (`STL`), is A with one term left out: where phi enters f directly, through
# log q(z | x), and not through z. That term is zero on average, but not draw by draw.
#
# ## Measuring
#
# The gradient for the encoder is a long vector. Its variance is here the sum over all elements, and
# the loss is in nats per datum. All estimators get two draws of each datum.

# %%


def gradients(objective, model, guide, parameters, x, count=DRAWS):
    """Independent draws of a gradient, shape (count, numbers)."""
    found = []
    for number in range(-20, count):  # a moving average first needs something to move over
        loss = objective.differentiable_loss(model, guide, x) / len(x)
        parts = torch.autograd.grad(loss, parameters)
        if number >= 0:
            found.append(torch.cat([part.flatten() for part in parts]))
    return torch.stack(found)


def variance(draws):
    return draws.var(0).sum().item()


ESTIMATORS = {  # whether draws are scored, and the objective with a number of draws
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
# Each repair of the score function takes orders of magnitude off, and the path a few times more. A
# baseline that is the same for all digits helps less after training, when digits differ in how well
# they are explained: leaving one out, which knows the digit, is then the better. B is far ahead of
# A as long as the guide is near the prior; near the optimum most of that lead is gone, and STL has
# it.
#
# All of them estimate the same gradient. If so, the means of two estimators are no further apart
# than their variances allow: the squared distance over its expectation should be about 1.

# %%
for name in ("score, leave one out", "path, B: analytic KL", "path, STL"):
    one, other = trained["path, A: Monte Carlo"], trained[name]
    apart = (one.mean(0) - other.mean(0)).square().sum().item()
    print(f"A and {name}: {apart / ((variance(one) + variance(other)) / len(one)):.2f}")

# %% [markdown]
# ## More draws
#
# With L draws of each datum the variance falls as 1/L, for every estimator that averages draws (the
# grey lines). That is slow: to make up for another estimator's factor one needs as many times more
# draws. With a batch of a hundred digits L = 1 is the usual choice, since the batch averages too.
# (Leaving one out falls faster at first, as its baseline becomes better.)

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
left.set(xscale="log", xlabel="variance of the guide's gradient", title="Two draws a digit")
for (name, (counts, values)), line in zip(curves.items(), ("-", "--", "-", "--"), strict=True):
    slope = [values[-1] * counts[-1] / n for n in counts]
    right.plot(counts, slope, color="lightgray", linewidth=4, zorder=0)
    right.plot(counts, values, line, marker="o", color=INK[name.split(",")[0]], label=name)
right.plot([], [], color="lightgray", linewidth=4, label="as 1/L")
right.set(xscale="log", yscale="log", xlabel="draws L of each digit", title="Trained")
right.set_ylim(bottom=right.get_ylim()[0] / 100)  # room for the legend
right.set_xticks(COUNTS, [str(n) for n in COUNTS])
right.minorticks_off()
right.legend(fontsize="small", loc="lower left", ncols=2)
figure.savefig(FIGURES / "03_variance.png", dpi=150)

# %% [markdown]
# ## Does it matter?
#
# The same networks from the same start, trained with each. All use one draw of each datum, but for
# leaving one out, which needs two.

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
# Why does STL win there? Where q(z | x) is the posterior, f(z) = log p(x, z) - log q(z | x) is
# log p(x), whatever z is: the bound itself has no variance. Yet A's gradient does, from the term
# that is zero on average alone. Without it nothing is left to vary. A mean-field guide of a network
# never gets there. A linear model with Gaussian noise does, since its posterior is known: we start
# from that, make the guide too wide by a factor, and let the factor go to 1.

# %%
SLOPE = torch.tensor([1.0, 2.0, -1.0])
PRECISION = 1 + (SLOPE @ SLOPE).item()  # of the posterior; the noise has scale 1


class Linear(nn.Module):
    """p(z) = N(0, 1), p(x | z) = N(SLOPE z, I), and its posterior with a scale to be trained."""

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
    with pyro.get_param_store().scope():  # a guide of the same name each time
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
left.set(xlabel="epoch", ylabel="validation bound, nats", title="What one can train with")
left.legend(fontsize="small")
for name, line in zip(NEAR, ("-", "-", "--", ":"), strict=True):
    colour = INK[name.split(",")[0]]
    right.plot(gaps, landing[name], line, marker="o", color=colour, label=name)
right.set(xscale="log", yscale="log", title="A linear model")
right.set(xlabel="KL(q || posterior), nats", ylabel="variance of the gradient")
right.legend(fontsize="small")
figure.savefig(FIGURES / "03_training.png", dpi=150)

# %% [markdown]
# ## Which one, then?
#
# - Draws that have a gradient: `ELBO()`, with `kl="analytic"` where there is a closed form, or
#   `STL()` once the guide is good. Nothing needs to be set for most pairs.
# - Draws that have none, as of Bernoulli units: the score function with a baseline, or the
#   estimators that tutorial 6 compares.
#
# pvae refuses the wrong one: `ELBO` on the scored guide is an error that names the site. Pyro's own
# `Trace_ELBO` takes both, and adds the score where it has to.
#
# ## What to try next
#
# 1. Make z 16-dimensional. Which variances grow with the dimension, and which do not?
# 2. Use `REINFORCE(baseline="network", x_shape=digits.x_shape)` in training. Where does it end?
# 3. Give the moving average of `pvae.objectives.MovingAverage` another `decay`, and pass it as
#    `baseline=`.
# 4. Take B apart: measure the gradient of the divergence alone by Monte Carlo (a likelihood that
#    ignores z). When is it the larger part of A's variance?
# 5. Replace the linear model's weight by a wrong one, so that q has the right width in the wrong
#    place. Does STL still land?
