"""How does one train many stochastic layers, and what do the upper layers contribute?"""

# %% [markdown]
# # From Helmholtz machines to variational autoencoders
#
# A Helmholtz machine (Dayan, Hinton, Neal, Zemel, 1995, https://doi.org/10.1162/neco.1995.7.5.889)
# is a pair of programs: a generative model draws layers of latent variables from the top down to
# the data, and a recognition model infers them from the data up. A variational autoencoder is the
# same machine, trained in another way. This script trains machines with one, two and three
# stochastic layers, Gaussian and binary, with wake-sleep and with newer objectives. It then
# measures what the upper layers contribute. After this tutorial you will be able to write and train
# hierarchies, and to say what each layer carries. The figures go to the folder `figures`.

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt
import pyro
import torch

import pvae
from pvae import objectives

SHORT = os.environ.get("PVAE_SHORT") == "1"  # the tests run a short version
FIGURES = Path("figures")
FIGURES.mkdir(exist_ok=True)
digits = pvae.data.load("digits", binarize="threshold")

# %% [markdown]
# ## Wake and sleep
#
#     model:  p(x, z1, ..., zM) = p(zM) prod p(z_m | z_{m+1}) p(x | z1)      from the top down
#     guide:  q(z1, ..., zM | x) = q(z1 | x) prod q(z_m | z_{m-1})           from the data up
#
# `HelmholtzMachine` and `BottomUp` are these two programs. Wake-sleep (Hinton, Dayan, Frey, Neal,
# 1995, https://doi.org/10.1126/science.7761831) trains them in two phases, each of which is a
# regression:
#
#     wake:   draw z from the guide for data x,  and raise log p(x, z) for the model
#     sleep:  draw z and x from the model (a dream),  and raise log q(z | x) for the guide
#
# The wake phase follows the gradient of the bound. The sleep phase does not: it lowers KL(p(z | x)
# || q(z | x)), the reverse divergence, and it does so on dreams instead of data. No single
# objective rises in both phases. The reparameterized bound trains both programs on one objective.
#
# Kingma and Welling ("Auto-Encoding Variational Bayes", 2013, https://arxiv.org/abs/1312.6114)
# compare the two on a machine with one layer, by the test bound against the number of training data
# processed. We repeat that comparison with one layer and with two. Both methods start from the same
# weights and take the same number of steps; only `objective` differs.
#
# This script uses MNIST, binarized anew in each epoch, if the folder `$PVAE_DATA` holds it, and the
# small digits otherwise. It checks first because `pvae.data.load("mnist")` downloads missing files.


# %%
def has_mnist():
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    folder = os.environ.get("PVAE_DATA")
    return bool(folder) and all(
        (Path(folder).expanduser() / "mnist" / f"{name}-ubyte.gz").is_file() for name in names
    )


if has_mnist() and not SHORT:
    data, hidden, rate, epochs = pvae.data.load("mnist", binarize="dynamic"), 200, 1e-3, 8
    machines = {"one layer": (20,), "two layers": (20, 10)}
else:
    data, hidden, rate, epochs = digits, 64, 3e-3, 25 if SHORT else 100
    machines = {"one layer": (5,), "two layers": (10, 5)}
print(f"{data.name}: {len(data.train)} training data, {len(data.test)} test data")


def train(dims, objective):
    torch.manual_seed(0)
    options = {"x_shape": data.x_shape, "dims": dims, "hidden": hidden}
    model = pvae.models.HelmholtzMachine(**options)
    guide = pvae.guides.BottomUp(**options)
    return pvae.fit(
        model,
        guide,
        data.train,
        valid=data.test,  # only for the curve: it selects nothing
        objective=objective,
        epochs=epochs,
        batch_size=100,
        learning_rate=rate,
        progress=False,
    )


OBJECTIVES = {
    "reparameterized bound": (objectives.ELBO, "tab:blue"),
    "wake-sleep": (objectives.WakeSleep, "tab:orange"),
}
figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
lowest = 0.0
for axes, (layers, dims) in zip(panels, machines.items(), strict=True):
    for name, (objective, colour) in OBJECTIVES.items():
        fit = train(dims, objective())
        seen = torch.tensor([row["epoch"] for row in fit.history]) * len(data.train)
        test = [row["valid_elbo"] for row in fit.history]
        axes.plot(seen, test, color=colour, label=f"{name}, test")
        # The training loss is a mean over the epoch, so its point is the middle of the epoch.
        training = [-row["train_loss"] for row in fit.history]
        middle = seen - len(data.train) / 2
        axes.plot(middle, training, "--", color=colour, label=f"{name}, training")
        lowest = min(lowest, *test)
        dreams = pvae.sample(fit.model, torch.zeros(500, *data.x_shape))
        spread = f"std of z1 in dreams {dreams['z1'].std(0).mean():.2f}"
        print(
            f"{layers:<11}{name:<22}{test[-1]:8.2f} nats after {seen[-1]} training data; {spread}"
        )
    sizes = " and ".join(map(str, dims))
    axes.set(xscale="log", xlabel="training data processed", title=f"{layers}: {sizes} Gaussians")
    low, high = axes.get_xlim()
    ticks = [n * 10**k for k in range(2, 8) for n in (1, 3) if low < n * 10**k < high]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
panels[0].set(ylabel="bound, nats per datum")
panels[0].set_ylim(bottom=lowest - 5)  # cuts off the training bound of the first steps
panels[0].legend(loc="lower right", fontsize="small")
figure.savefig(FIGURES / "06_wake_sleep.png", dpi=150)

# %% [markdown]
# The reparameterized bound ends higher. Its lead is larger with two layers than with one, and
# larger on MNIST than on the small digits. The standard deviation of z1 in dreams, which starts at
# about 1, shows one reason. In the wake phase p(z1 | z2) learns from the guide's codes; in the
# sleep phase the guide learns from the model's codes. Both must agree on the scale of the layer
# between them, but no term of either phase fixes it. The scale drifts, and all networks around the
# layer have to follow. The top layer does not drift, because its prior is fixed.
#
# ## Binary layers
#
# The reparameterized bound cannot train the original machine of 1995, whose units are binary: their
# draws have no gradient. A *sigmoid belief network* is a Helmholtz machine of Bernoulli layers with
# linear networks. Five objectives can train it; we use five draws per digit for each:
#
# - `WakeSleep`, as above: it needs no gradient through a draw;
# - `REINFORCE`: the bound with the score function; the other four draws are each draw's baseline;
# - `VIMCO`: the same for the tighter, importance-weighted bound;
# - `RWS`, reweighted wake-sleep: both programs learn from data, with draws weighted by importance;
#   the guide lowers the divergence of the sleep phase;
# - `Concrete`: units relaxed to values between 0 and 1, whose draws have a gradient. It trains a
#   relaxed model; the figure shows the bound of the binary one.

# %%
BINARY = {"x_shape": digits.x_shape, "dims": (20, 10), "hidden": (), "latent": "bernoulli"}
ESTIMATORS = {
    "RWS": (objectives.RWS, "tab:green"),
    "VIMCO": (objectives.VIMCO, "tab:blue"),
    "REINFORCE": (objectives.REINFORCE, "tab:purple"),
    "Concrete": (objectives.Concrete, "tab:red"),
    "wake-sleep": (objectives.WakeSleep, "tab:orange"),
}
figure, axes = plt.subplots(figsize=(6.5, 3.8), layout="constrained")
for name, (objective, colour) in ESTIMATORS.items():
    torch.manual_seed(0)
    model, guide = pvae.models.HelmholtzMachine(**BINARY), pvae.guides.BottomUp(**BINARY)
    fit = pvae.fit(
        model,
        guide,
        digits,
        objective=objective(num_particles=5),
        epochs=20 if SHORT else 150,
        learning_rate=3e-3,
        progress=False,
    )
    history = fit.history
    bounds = [row["valid_elbo"] for row in history]
    axes.plot([row["epoch"] for row in history], bounds, color=colour, label=name)
    bound = pvae.elbo(fit.model, fit.guide, digits.test, num_particles=10)
    evidence = pvae.log_likelihood(
        fit.model, fit.guide, digits.test, num_particles=50 if SHORT else 1000
    )
    print(f"{name:<12}test bound {bound.mean:.2f}, log-likelihood {evidence.mean:.2f} ", end="")
    print(f"+- {evidence.mc_error:.3f} nats")
axes.set(xlabel="epoch", ylabel="validation bound, nats", title="A sigmoid belief network")
axes.set_ylim(bottom=-28)
axes.legend()
figure.savefig(FIGURES / "06_binary_layers.png", dpi=150)

# %% [markdown]
# All five curves show the plain bound, so they can be compared, although VIMCO and RWS raise a
# tighter one. The log-likelihood is the fairer measure. Its distance from the bound is the
# divergence of the guide from the posterior; it is largest for Concrete, whose guide was trained
# for the relaxed model. Wake-sleep has the lowest log-likelihood. These are single runs of a small
# network on small data: do not generalize from small differences.
#
# ## What do the upper layers contribute?
#
# Each layer has a KL term in the bound. If a layer's KL is zero, its posterior equals its prior for
# every x, and the model does not use the layer. Upper layers collapse first: the lower layer learns
# faster, and once it explains the data, the layers above have nothing left to explain.
#
# "Ladder Variational Autoencoders" (Sonderby et al., 2016, https://arxiv.org/abs/1602.02282)
# proposes two remedies. *Warm-up* scales the divergence by a factor that rises to 1 over the first
# epochs, so that layers do not collapse before they have learned something. *The ladder* is a guide
# that runs from the top down like the model, and combines the model's own p(z_m | z_{m+1}) with
# evidence from x about layer m:
#
#     q(z_m | z_{m+1}, x) is the product of N(loc_hat(x), scale_hat(x)^2) and p(z_m | z_{m+1})
#
# `Ladder` takes the model, because it uses the model's top-down networks. As in the paper, the
# networks have batch normalization. The data of a batch then depend on each other, so the training
# loss is not a bound; `fit.notes` says so. The bounds below use the running statistics instead, and
# are valid.

# %%
DIMS, EPOCHS = (16, 8, 4), 20 if SHORT else 100
VARIANTS = {
    "bottom-up": (False, 0),
    "bottom-up, warm-up": (False, EPOCHS // 2),
    "ladder": (True, 0),
    "ladder, warm-up": (True, EPOCHS // 2),
}
divergences, fits = {}, {}
for name, (ladder, warmup) in VARIANTS.items():
    torch.manual_seed(0)
    options = {"x_shape": digits.x_shape, "dims": DIMS, "hidden": 64, "norm": "batch"}
    model = pvae.models.HelmholtzMachine(**options)
    guide = (
        pvae.guides.Ladder(model, hidden=64, norm="batch")
        if ladder
        else pvae.guides.BottomUp(**options)
    )
    fit = pvae.fit(
        model, guide, digits, epochs=EPOCHS, warmup=warmup, learning_rate=2e-3, progress=False
    )
    fits[name] = fit
    bound = pvae.elbo(fit.model, fit.guide, digits.test, num_particles=10)
    found = pvae.evaluation.kl_by_site(fit.model, fit.guide, digits.test)
    active = pvae.evaluation.active_units(fit.model, fit.guide, digits.test).sites
    divergences[name] = found
    print(f"{name:<20}bound {bound.mean:.2f}; ", end="")
    for number, units in enumerate(DIMS, 1):
        site = f"z{number}"
        count = f"{active[site].count} of {units} active"
        print(f" {site}: {found[site].mean:.2f} nats, {count};", end="")
    print()

figure, axes = plt.subplots(figsize=(7, 2.8), layout="constrained")
left = torch.zeros(len(VARIANTS))
for number, shade in enumerate(("#c6dbef", "#6baed6", "#08519c"), 1):
    values = torch.tensor([found[f"z{number}"].mean for found in divergences.values()])
    axes.barh(list(VARIANTS), values, left=left, color=shade, label=f"z{number}")
    left += values
axes.invert_yaxis()
axes.set(xlabel="KL, nats per digit", title="KL of each layer")
axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
figure.savefig(FIGURES / "06_layers.png", dpi=150)

# %% [markdown]
# The number of active units stands beside each divergence. A unit is active if its posterior mean
# varies with x. In a hierarchy, a unit may also vary because the layer above it does: a unit of the
# ladder may be active at zero KL if it only follows the model's own p(z_m | z_{m+1}). What a layer
# *adds* is its divergence.
#
# ## Dreams
#
# Finally we sample from the model alone. We fix the upper layers and sample the others repeatedly:
# what stays the same is determined by the fixed layers. Pyro's `condition` fixes sites of a
# program, and `uncondition` turns the observed x into a sampled site. We show the mean of p(x | z1)
# to avoid pixel noise.

# %%
dreamer = pyro.poutine.uncondition(fits["ladder, warm-up"].model)
ROWS, COLUMNS = 6, 6


def dream(fixed):
    """Means of p(x | z1), shape (ROWS, COLUMNS, height, width), given some layers."""
    program = pyro.poutine.condition(dreamer, data=fixed)
    with torch.no_grad():
        trace = pyro.poutine.trace(program).get_trace(torch.zeros(ROWS * COLUMNS, *digits.x_shape))
    return trace.nodes["x"]["fn"].mean.unflatten(0, (ROWS, COLUMNS))


torch.manual_seed(3)
tops = pvae.sample(fits["ladder, warm-up"].model, torch.zeros(ROWS, *digits.x_shape))
repeated = {name: tops[name].repeat_interleave(COLUMNS, 0) for name in ("z2", "z3")}
sheets = {
    "all layers sampled": dream({}),
    "z3 fixed in each row": dream({"z3": repeated["z3"]}),
    "z3 and z2 fixed in each row": dream(repeated),
}
figure, panels = plt.subplots(1, 3, figsize=(9, 3.3), layout="constrained")
for axes, (name, sheet) in zip(panels, sheets.items(), strict=True):
    within = sheet.var(1, correction=0).mean() / sheet.flatten(0, 1).var(0, correction=0).mean()
    print(f"{name}: {within:.0%} of the variance of pixels is within rows")
    padded = torch.nn.functional.pad(sheet, (1, 1, 1, 1), value=0.5)
    axes.imshow(padded.permute(0, 2, 1, 3).flatten(2).flatten(0, 1), cmap="gray_r", vmin=0, vmax=1)
    axes.set_title(name, fontsize="medium")
    axes.set_axis_off()
figure.savefig(FIGURES / "06_dreams.png", dpi=150)

# %% [markdown]
# ## What to try next
#
# 1. Train wake-sleep with two layers for five times as many epochs. Expect it to come nearer to the
#    others, and not to reach them: its guide learns from dreams, not from data.
# 2. `RWS(insomnia=0.5)` trains the guide half on dreams and half on data. Expect a curve between
#    those of wake-sleep and of RWS.
# 3. Lower the temperatures of `Concrete(temperature=..., prior_temperature=...)`. Expect less bias
#    and a noisier curve: the relaxation is nearer to bits, and its gradients are larger.
# 4. Leave out `norm="batch"`. Which of the four pairs loses most?
# 5. `ELBO(free_bits=0.5, sites=["z3"])` does not penalize the KL of z3 below 0.5 nats. Expect the
#    top layer to carry about that much; whether the bound rises as well is for you to see.
#
# Not said here: layers of many pixels and channels, as in the deepest ladders, and layers that
# follow each other in time, which the tutorial on sequences has.
