"""How long does a training step take, and how do I make it faster?"""

# %% [markdown]
# # Speed and scale
#
# A gradient step of a pair is a little arithmetic and a lot of Python. Pyro runs the model and the
# guide under effect handlers, which find the sites, apply the plates and sum the terms of the
# bound. The handlers make Pyro general, but for small networks they cost more than the arithmetic.
# This script measures the cost of a step on *your* machine, removes the Python from it, and shows
# when that pays off. After this tutorial you will be able to say where the time of a training goes,
# and which engine to choose. The figures go to the folder `figures`.

# %%
import os
import statistics
import time
from pathlib import Path

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import Trace_ELBO
from torch import nn

import pvae

SHORT = os.environ.get("PVAE_SHORT") == "1"  # the tests run a short version
FIGURES = Path("figures")
FIGURES.mkdir(exist_ok=True)
torch.manual_seed(0)
ROUNDS = 5 if SHORT else 30

# %% [markdown]
# ## How to measure time
#
# The load of a machine varies. We therefore alternate between the contenders, a few steps at a
# time, and report the median over rounds. The first round is a warm-up and does not count.

# %%


def milliseconds(contenders, rounds=ROUNDS, steps=5):
    """Median milliseconds per step of each contender, measured in alternation."""
    times = {name: [] for name in contenders}
    for number in range(-1, rounds):
        for name, step in contenders.items():
            began = time.perf_counter()
            for _ in range(steps):
                step()
            if number >= 0:
                times[name].append((time.perf_counter() - began) / steps * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def adam(parameters):  # fused: one kernel updates all parameters
    return torch.optim.Adam(parameters, lr=1e-3, fused=True)


def pair(hidden):
    """The zoo's VAE for images of 784 pixels, with its guide."""
    sizes = {"x_shape": (784,), "z_dim": 10, "hidden": hidden}
    return pvae.models.VAE(**sizes), pvae.guides.MeanField(**sizes)


x = torch.rand(128, 784).bernoulli()  # 128 rows with as many pixels as an MNIST digit

# %% [markdown]
# ## Where the time goes
#
# We time three steps with the same networks: Pyro's own step, with its validation at every site;
# the same without validation; and the arithmetic alone, written by hand for this one model.

# %%
model, guide = pair(hidden=128)
svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
by_hand = nn.Sequential(nn.Linear(784, 128), nn.SiLU(), nn.Linear(128, 20))
decoder = nn.Sequential(nn.Linear(10, 128), nn.SiLU(), nn.Linear(128, 784))
optimizer = adam([*by_hand.parameters(), *decoder.parameters()])


def pyros_step():
    with pyro.validation_enabled(True):
        svi.step(x)


def unvalidated_step():
    with pyro.validation_enabled(False):
        svi.step(x)


def step_by_hand():
    loc, raw = by_hand(x).chunk(2, -1)
    scale = nn.functional.softplus(raw)
    z = loc + scale * torch.randn_like(loc)
    logits = decoder(z)
    loss = nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    loss = loss + (0.5 * (loc**2 + scale**2 - 1) - scale.log()).sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


costs = milliseconds(
    {"Pyro": pyros_step, "Pyro, not validated": unvalidated_step, "by hand": step_by_hand}
)
for name, cost in costs.items():
    print(f"{name:<20} {cost:6.2f} ms per step")
print(f"handlers and validation: {1 - costs['by hand'] / costs['Pyro']:.0%} of Pyro's step")

# %% [markdown]
# ## Engines
#
# `pvae.SVI` is a drop-in replacement for Pyro's SVI; only the import changes. It adds the keyword
# `engine=`, which selects how a step is carried out:
#
# - `eager`: Pyro's own step.
# - `recorded`: the tensor operations of one step, including the backward pass, are recorded once
#   and replayed from then on. Replays run no handlers.
# - `captured`: the recording is also compiled. The compilation takes some seconds, once.
#
# All three draw the same random numbers and compute the same losses.

# %%
engines = ["eager", "recorded"] if SHORT else ["eager", "recorded", "captured"]
losses = {}
for engine in engines:
    torch.manual_seed(1)
    with pyro.get_param_store().scope():
        svi = pvae.SVI(*pair(hidden=128), adam, Trace_ELBO(), engine=engine)
        losses[engine] = [svi.step(x) / len(x) for _ in range(20)]
    print(f"{engine:<9} loss {losses[engine][-1]:.4f} nats after 20 steps; {svi.engine}")
for engine in engines[1:]:
    pairs = zip(losses[engine], losses["eager"], strict=True)
    assert all(abs(a - b) < 1e-3 * abs(b) for a, b in pairs)

# %% [markdown]
# ## What the engines save
#
# The cost of the handlers does not depend on the networks; the cost of the arithmetic grows with
# them. An engine therefore saves more in narrow networks. Both axes are logarithmic.

# %%
widths = [32, 64] if SHORT else [32, 64, 128, 256, 512, 1024]
table = {engine: [] for engine in engines}
for width in widths:
    with pyro.get_param_store().scope(), pyro.validation_enabled(False):
        programs = pair(hidden=width)
        steps = {
            engine: pvae.SVI(*programs, adam, Trace_ELBO(), engine=engine).step
            for engine in engines
        }
        # Pyro's own step and the recording fall into the warm-up round.
        found = milliseconds({name: (lambda step=step: step(x)) for name, step in steps.items()})
    for engine in engines:
        table[engine].append(found[engine])
    print(f"{width:>5} hidden units: " + ", ".join(f"{k} {v:.2f} ms" for k, v in found.items()))


def plain_ticks(axes, values):
    """Label logarithmic axes with plain numbers."""
    axes.set_xticks(values, [str(value) for value in values])
    axes.minorticks_off()
    low, high = axes.get_ylim()
    ticks = [m * 10.0**e for e in range(-2, 7) for m in (1, 2, 5)]
    axes.set_yticks([tick for tick in ticks if low <= tick <= high])
    axes.yaxis.set_major_formatter("{x:,g}")


figure, axes = plt.subplots(figsize=(5, 3.5), layout="constrained")
for engine in engines:
    axes.loglog(widths, table[engine], marker="o", label=engine)
plain_ticks(axes, widths)
axes.set(xlabel="hidden units", ylabel="milliseconds per step")
axes.legend()
figure.savefig(FIGURES / "14_engines.png", dpi=150)

# %% [markdown]
# ## When `auto` records and compiles
#
# The default engine, `auto`, starts eager, so that the shortest runs do not pay for recording.
# After 20 steps with the same cache key (batch shape, train or eval mode, ...) it records the step,
# which takes as long as a few dozen steps. It compiles the recording after as many steps as take
# about as long as the compilation, so that no training lasts twice as long as it must. Both are
# estimated by counting the operations and the multiplications in them: some 1,600 steps of 128
# images for 400 hidden units, and five times as many for 20. What was compiled stays on disk, in
# `$PVAE_CACHE` or the system's folder for caches, so that the next start of the same pair on the
# same machine need not compile. The counts do not depend on a clock, on what is on disk, or on the
# number of epochs: a run that is repeated, or stopped and resumed, changes engines at the same
# steps and computes the same numbers.

# %%
with pyro.get_param_store().scope():
    svi = pvae.SVI(*pair(hidden=32), adam, Trace_ELBO())
    for _ in range(2):
        for _ in range(20):
            svi.step(x)
        print(svi.engine)

# %% [markdown]
# ## Stale recordings
#
# A recording contains no Python. If the model reads a Python value that changes later, such as a
# number, a condition or a mode, an outdated recording would silently train with the old value. pvae
# prevents this in two ways. Recordings are cached by arguments, shapes, modes and the Python values
# that your programs capture. And at regular intervals, pvae compares a replay with one of Pyro's
# own steps that uses the same random numbers. Here the scale of the likelihood is an attribute; the
# first step after the change uses the new value:


# %%
class Annealed:
    """A pair whose likelihood has an attribute, `scale`, that changes during training."""

    def __init__(self):
        self.decoder, self.encoder, self.scale = nn.Linear(2, 784), nn.Linear(784, 2), 1.0

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), self.scale).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.encoder(x), 0.5).to_event(1))


followed = {}
for engine in ("eager", "recorded"):
    torch.manual_seed(2)
    with pyro.get_param_store().scope():
        annealed = Annealed()
        svi = pvae.SVI(annealed.model, annealed.guide, adam, Trace_ELBO(), engine=engine)
        before = [svi.step(x) for _ in range(10)]
        annealed.scale = 0.5
        followed[engine] = [svi.step(x) for _ in range(10)]
print(
    f"after the change: eager {followed['eager'][-1]:.1f}, recorded {followed['recorded'][-1]:.1f}"
)
assert abs(followed["eager"][-1] - followed["recorded"][-1]) < 1e-4 * abs(followed["eager"][-1])

# %% [markdown]
# A program whose control flow depends on the value of a tensor has a recording for each value that
# it reads, up to eight, and a step is replayed if it would read the same value. A program that
# reads ever new values cannot be replayed. Its steps remain Pyro's own, and a note names the line:


# %%
def data_dependent(x):
    loc = pyro.param("loc", torch.zeros(784))
    if loc.mean() > 0:  # true or false: two recordings
        loc = loc * 2
    loc = loc * (1 + loc.abs().max().item())  # another value in each step
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)


with pyro.get_param_store().scope():
    svi = pvae.SVI(data_dependent, lambda x: None, adam, Trace_ELBO(), engine="recorded")
    for _ in range(80):
        svi.step(x)
print(svi.engine)
for note in svi.notes:
    print("note:", note)

# %% [markdown]
# ## Precision
#
# Many processors multiply matrices faster in `bfloat16`, which has eight significant bits, than in
# `float32`. With `precision="bfloat16"` the *networks* do so. Parameters, distributions,
# log-probabilities and their sums stay in float32, so the loss is still a bound, for slightly
# rounded networks. If the processor does not support a precision, pvae raises a `ValueError`.

# %%
wide = pair(hidden=64 if SHORT else 1024)
steps = {}
for precision in ("float32", "bfloat16"):
    with pyro.get_param_store().scope():
        svi = pvae.SVI(*wide, adam, Trace_ELBO(), engine="recorded", precision=precision)
        try:
            svi.step(x)
        except ValueError as error:
            print(f"{precision}: {error}")
            continue
    steps[precision] = svi.step
with pyro.get_param_store().scope(), pyro.validation_enabled(False):
    found = milliseconds({name: (lambda step=step: step(x)) for name, step in steps.items()})
for precision, cost in found.items():
    print(f"{precision:<8} {cost:6.2f} ms per step of the widest pair")

# %% [markdown]
# In narrow networks, conversions would cost more than faster products save: on a CPU, products of
# fewer than 2^24 multiplications stay in float32. The effect on the bound is small, here with
# batches that are large enough:

# %%
digits = pvae.data.load("digits")
for precision in steps:
    model = pvae.models.VAE(x_shape=digits.x_shape, z_dim=8, hidden=256, levels=digits.levels,
                            likelihood="discretized_logistic")  # fmt: skip
    guide = pvae.guides.MeanField(x_shape=digits.x_shape, z_dim=8, hidden=256)
    fit = pvae.fit(
        model, guide, digits, epochs=3 if SHORT else 200, batch_size=1024, precision=precision,
        progress=False,
    )  # fmt: skip
    bound = pvae.elbo(fit.model, fit.guide, digits.test, num_particles=10)
    print(f"{precision:<8} test bound {bound.mean:.2f} +- {bound.std_error:.2f} nats per datum")

# %% [markdown]
# ## Batch size
#
# The overhead of a step does not depend on the batch size, so larger batches process more data per
# second until the arithmetic dominates. (The *bound* may still rise more slowly, because there are
# fewer steps per epoch.)

# %%
sizes = [16, 64] if SHORT else [16, 32, 64, 128, 256, 512, 1024]
rates = {engine: [] for engine in ("eager", "recorded")}
for size in sizes:
    data = torch.rand(size, 784).bernoulli()
    with pyro.get_param_store().scope(), pyro.validation_enabled(False):
        programs = pair(hidden=128)
        steps = {e: pvae.SVI(*programs, adam, Trace_ELBO(), engine=e).step for e in rates}
        contenders = {e: (lambda step=step, data=data: step(data)) for e, step in steps.items()}
        found = milliseconds(contenders)
    for engine, cost in found.items():
        rates[engine].append(size / cost * 1e3)

figure, axes = plt.subplots(figsize=(5, 3.5), layout="constrained")
for engine, values in rates.items():
    axes.loglog(sizes, values, marker="o", label=engine)
    print(f"{engine:<9} {values[0]:>9,.0f} data per second in batches of {sizes[0]}, "
          f"{values[-1]:>9,.0f} in batches of {sizes[-1]}")  # fmt: skip
plain_ticks(axes, sizes)
axes.set(xlabel="data per batch", ylabel="data per second")
axes.legend()
figure.savefig(FIGURES / "14_batches.png", dpi=150)

# %% [markdown]
# ## What to try next
#
# - `pvae bench my_pair.py:model my_pair.py:guide --data my_data.npz` runs this comparison for your
#   own pair. `pvae train ... --engine captured` compiles right away, which suits long runs of small
#   models.
# - Store values that change during training in a tensor (`beta = torch.tensor(0.1)`, then
#   `beta.fill_(...)`). Every replay reads the current value, so nothing is recorded again.
# - Torch's threads wait for each other several times in a step. If another process takes the core
#   of one of them, all are slow: `pvae train ... --threads auto` measures at the start how many are
#   fastest, and the run keeps this number, since others would round differently.
# - Pyro's validation also costs time: turn it off for your own steps with
#   `pyro.enable_validation(False)`. `pvae.fit` validates during the first epoch only.
#
# Not said here: networks too large for one device. Processes divide the rows of a batch, which the
# tutorial on long runs shows, and not the network.
