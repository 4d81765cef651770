"""What do many stochastic layers ask of training, and what do the upper ones do?"""

# %% [markdown]
# # From Helmholtz machines to variational autoencoders
#
# A Helmholtz machine (Dayan, Hinton, Neal, Zemel, 1995, https://doi.org/10.1162/neco.1995.7.5.889)
# is two programs: a generative one, which draws layers of latent variables from the top down to the
# data, and a recognition one, which goes up from the data. A variational autoencoder is the same
# machine; what changed is how it is trained. This script trains machines of one, two and three
# stochastic layers, Gaussian and binary, by the old way and the new ones, and then asks what the
# layers far from the data are used for. The pictures go to the folder `figures`.

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt
import pyro
import torch

import pvae
from pvae.objectives import ELBO, REINFORCE, RWS, VIMCO, Concrete, WakeSleep

SHORT = os.environ.get("PVAE_SHORT") == "1"  # a quick pass through every cell
FIGURES = Path("figures")
FIGURES.mkdir(exist_ok=True)
digits = pvae.data.load("digits", binarize="threshold")

# %% [markdown]
# ## Wake and sleep
#
#     model:  p(x, z1, ..., zM) = p(zM) prod p(z_m | z_{m+1}) p(x | z1)      from the top down
#     guide:  q(z1, ..., zM | x) = q(z1 | x) prod q(z_m | z_{m-1})           from the data up
#
# `HelmholtzMachine` and `BottomUp` are these two. Wake-sleep (Hinton, Dayan, Frey, Neal, 1995,
# https://doi.org/10.1126/science.7761831) trains them in two phases, each a plain regression:
#
#     wake:   draw z from the guide at data,  and raise log p(x, z) for the model
#     sleep:  draw z and x from the model (a dream),  and raise log q(z | x) for the guide
#
# The wake phase follows the bound. The sleep phase does not: it lowers KL(p(z | x) || q(z | x)),
# the divergence the other way around, and on dreams instead of data. Nothing says that the two
# phases together raise anything. The reparameterized bound trains both programs on one number.
#
# Kingma and Welling ("Auto-Encoding Variational Bayes", 2013, https://arxiv.org/abs/1312.6114)
# compare the two on one machine, by the bound on test data against the number of training data
# that were looked at. Here is that comparison, for a machine of one layer as theirs, and for two
# layers. Both ways begin with the same weights and take the same steps; only `objective` differs.
#
# MNIST is used where `$PVAE_DATA` holds it, binarized anew in each epoch, and small digits
# otherwise: `pvae.data.load("mnist")` would download what it does not find, and so this script asks
# first.


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
print(f"{data.name}: {len(data.train)} to train on, {len(data.test)} to judge")


def train(dims, objective):
    torch.manual_seed(0)
    options = {"x_shape": data.x_shape, "dims": dims, "hidden": hidden}
    model = pvae.models.HelmholtzMachine(**options)
    guide = pvae.guides.BottomUp(**options)
    return pvae.fit(
        model,
        guide,
        data.train,
        valid=data.test,  # to draw the curve: nothing is chosen by it
        objective=objective,
        epochs=epochs,
        batch_size=100,
        learning_rate=rate,
        progress=False,
    )


WAYS = {"reparameterized bound": (ELBO, "tab:blue"), "wake-sleep": (WakeSleep, "tab:orange")}
figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
lowest = 0.0
for axes, (layers, dims) in zip(panels, machines.items(), strict=True):
    for name, (objective, colour) in WAYS.items():
        fit = train(dims, objective())
        seen = torch.tensor([row["epoch"] for row in fit.history]) * len(data.train)
        test = [row["valid_elbo"] for row in fit.history]
        axes.plot(seen, test, color=colour, label=f"{name}, test")
        # A mean over the epoch, and so drawn at its middle.
        training = [-row["train_loss"] for row in fit.history]
        middle = seen - len(data.train) / 2
        axes.plot(middle, training, "--", color=colour, label=f"{name}, training")
        lowest = min(lowest, *test)
        dreams = pvae.sample(fit.model, torch.zeros(500, *data.x_shape))
        spread = f"z1 spreads by {dreams['z1'].std(0).mean():.2f} in dreams"
        print(
            f"{layers:<11}{name:<22}{test[-1]:8.2f} nats after {seen[-1]} training data; {spread}"
        )
    sizes = " and ".join(map(str, dims))
    axes.set(xscale="log", xlabel="training data looked at", title=f"{layers}: {sizes} Gaussians")
    low, high = axes.get_xlim()
    ticks = [n * 10**k for k in range(2, 8) for n in (1, 3) if low < n * 10**k < high]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
panels[0].set(ylabel="bound, nats per datum")
panels[0].set_ylim(bottom=lowest - 5)  # the first steps of training are lower still
panels[1].legend(loc="lower right", fontsize="small")
figure.savefig(FIGURES / "06_wake_sleep.png", dpi=150)

# %% [markdown]
# The reparameterized bound ends ahead. With one layer the distance is small on the small digits,
# and larger on MNIST. With two layers wake-sleep falls far behind, and on the small digits it soon
# stops learning altogether. The spread of z1 shows how. In the wake phase p(z1 | z2) learns from
# the codes that the guide makes, in the sleep phase the guide learns from the codes that the model
# makes. All that the two ask for is that they agree, and no one fixes how wide a layer in between
# is. Narrow codes that say little about x are easy to agree on. (Both began at about 1.)
#
# ## Binary layers
#
# What the reparameterized bound cannot do is the machine of 1995 itself: units that are on or off.
# Their draws have no gradient. A *sigmoid belief network* is a Helmholtz machine of Bernoulli
# layers whose networks are linear. Five objectives train it, each with five draws of each digit:
#
# - `WakeSleep`, as above: no gradient of a draw is asked for;
# - `REINFORCE`: the bound by the score function, each draw compared with the other four;
# - `VIMCO`: the same idea for the tighter, importance-weighted bound;
# - `RWS`, reweighted wake-sleep: both programs learn from data, at draws weighed by how well they
#   explain them, the guide by the divergence that the sleep phase lowers;
# - `Concrete`: units relaxed to values between 0 and 1, which do have a gradient. It trains another
#   model than the one that is wanted; what is drawn below is the binary one.

# %%
BINARY = {"x_shape": digits.x_shape, "dims": (20, 10), "hidden": (), "latent": "bernoulli"}
ESTIMATORS = {
    "RWS": (RWS, "tab:green"),
    "VIMCO": (VIMCO, "tab:blue"),
    "REINFORCE": (REINFORCE, "tab:purple"),
    "Concrete": (Concrete, "tab:red"),
    "wake-sleep": (WakeSleep, "tab:orange"),
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
# The curves are the plain bound for all five, so that they can be compared, though VIMCO and RWS
# raise a tighter one. The log-likelihood is the fairer judge: its distance from the bound is what a
# guide costs that is not the posterior, and it is largest for Concrete, whose guide was trained for
# another model. Wake-sleep, which needs the least, ends last. One run each of a small network on
# small data: do not read the order of neighbours as a law.
#
# ## What do the upper layers do?
#
# The bound pays for each layer by its divergence. Of a layer that pays nothing the posterior is the
# prior, whatever x is: the model could do without. Upper layers are the first to go: a lower layer
# learns faster, and once it has explained the data there is nothing left to say above it.
#
# Two remedies are in "Ladder Variational Autoencoders" (Sonderby et al., 2016,
# https://arxiv.org/abs/1602.02282). *Warm-up*: for some epochs the divergence weighs less than it
# should, so that no layer is given up before it has learned something. And *the ladder*: a guide
# that goes down like the model does, and that adds to the model's own p(z_m | z_{m+1}) what x says
# about layer m:
#
#     q(z_m | z_{m+1}, x) is the product of N(loc_hat(x), scale_hat(x)^2) and p(z_m | z_{m+1})
#
# `Ladder` is built with the model whose path it shares. As in that paper the networks have batch
# normalization; pvae says in `fit.notes` that the training loss is no bound then, as the digits of
# a batch see each other. What is evaluated is one.

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
axes.set(xlabel="KL, nats per digit", title="What each layer adds")
axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
figure.savefig(FIGURES / "06_layers.png", dpi=150)

# %% [markdown]
# Beside each divergence stands the number of active units, those whose posterior mean moves with x.
# Mind the difference: in a hierarchy a unit also moves because the layer beside it does. A unit of
# the ladder can be active and cost nothing, when all it does is to follow the model's own
# p(z_m | z_{m+1}). What a layer *adds* is in the divergence.
#
# ## Dreams
#
# The model alone, from the top down. Hold the top layers and draw the rest anew: what stays the
# same is what they decide. `condition` holds sites of a program, and `uncondition` frees x, so that
# it is drawn; both are Pyro's. To see shapes and no pixel noise, we look at the mean of p(x | z1).

# %%
dreamer = pyro.poutine.uncondition(fits["ladder, warm-up"].model)
ROWS, COLUMNS = 6, 6


def dream(held):
    """Means of p(x | z1), shape (ROWS, COLUMNS, height, width), with some layers held."""
    program = pyro.poutine.condition(dreamer, data=held)
    with torch.no_grad():
        trace = pyro.poutine.trace(program).get_trace(torch.zeros(ROWS * COLUMNS, *digits.x_shape))
    return trace.nodes["x"]["fn"].mean.unflatten(0, (ROWS, COLUMNS))


torch.manual_seed(3)
tops = pvae.sample(fits["ladder, warm-up"].model, torch.zeros(ROWS, *digits.x_shape))
repeated = {name: tops[name].repeat_interleave(COLUMNS, 0) for name in ("z2", "z3")}
sheets = {
    "nothing held": dream({}),
    "z3 held in each row": dream({"z3": repeated["z3"]}),
    "z3 and z2 held in each row": dream(repeated),
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
# 1. Give wake-sleep five times the epochs on two layers. Does it catch up?
# 2. `RWS(insomnia=0.5)` lets the guide learn from dreams half of the time. Between which two of the
#    curves does it lie?
# 3. Lower the temperatures of `Concrete(temperature=..., prior_temperature=...)`. Is the binary
#    network better, and what does training look like?
# 4. Leave out `norm="batch"`. Which of the four pairs suffers most?
# 5. `ELBO(free_bits=0.5, sites=["z3"])` pays for the top layer in advance. What does it say about x
#    then, and is the bound better for it?
