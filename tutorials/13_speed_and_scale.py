"""What does a training step cost, and how do I make it cheaper?"""

# %% [markdown]
# # Speed and scale
#
# A gradient step of a pair is a little arithmetic in a lot of Python: Pyro runs model and guide
# under effect handlers, which find the sites, apply the plates and add up the terms of the bound.
# That is what makes any program a model, and in small networks it costs more than the networks do.
# This script measures what a step costs on *your* machine, takes the Python out of it, and shows
# when that pays. The pictures go to the folder `figures`.

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

SHORT = os.environ.get("PVAE_SHORT") == "1"  # a quick pass through every cell
FIGURES = Path("figures")
FIGURES.mkdir(exist_ok=True)
torch.manual_seed(0)
ROUNDS = 5 if SHORT else 30

# %% [markdown]
# ## How to time
#
# A machine that does other things too is never the same twice. So the ways to compare take turns, a
# few steps each, and what counts is the median over the rounds. The first turn of each is not
# counted: that is where things are made ready.

# %%


def milliseconds(ways, rounds=ROUNDS, steps=5):
    """Median time of a step by each way, in turns."""
    times = {name: [] for name in ways}
    for number in range(-1, rounds):
        for name, step in ways.items():
            began = time.perf_counter()
            for _ in range(steps):
                step()
            if number >= 0:
                times[name].append((time.perf_counter() - began) / steps * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def adam(parameters):  # all parameters in one kernel
    return torch.optim.Adam(parameters, lr=1e-3, fused=True)


def pair(hidden):
    """The zoo's VAE for images of 784 pixels, with its guide."""
    sizes = {"x_shape": (784,), "z_dim": 10, "hidden": hidden}
    return pvae.models.VAE(**sizes), pvae.guides.MeanField(**sizes)


x = torch.rand(128, 784).bernoulli()  # a batch as large as one of MNIST

# %% [markdown]
# ## Where the time goes
#
# Three steps with the same networks: Pyro's own, with the checks that it makes at every site; the
# same without the checks; and the arithmetic alone, written by hand for this one model.

# %%
model, guide = pair(hidden=128)
svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
by_hand = nn.Sequential(nn.Linear(784, 128), nn.SiLU(), nn.Linear(128, 20))
decoder = nn.Sequential(nn.Linear(10, 128), nn.SiLU(), nn.Linear(128, 784))
optimizer = adam([*by_hand.parameters(), *decoder.parameters()])


def pyros_step():
    with pyro.validation_enabled(True):
        svi.step(x)


def unchecked_step():
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
    {"Pyro": pyros_step, "Pyro, unchecked": unchecked_step, "by hand": step_by_hand}
)
for name, cost in costs.items():
    print(f"{name:<16} {cost:6.2f} ms a step")
print(f"handlers and checks: {1 - costs['by hand'] / costs['Pyro']:.0%} of Pyro's step")

# %% [markdown]
# ## Engines
#
# `pvae.SVI` is Pyro's SVI: change the import, and the program is the same. What it adds is a choice
# of *engine*, the way in which a step is carried out:
#
# - `eager`: Pyro as it is.
# - `recorded`: one step of Pyro's is watched, and the tensor operations that it made, backward pass
#   included, are replayed from then on. No handler runs any more.
# - `captured`: those operations are compiled, too, into a few kernels. That takes seconds once.
#
# All three draw the same random numbers and follow the same losses.

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
# ## What they save
#
# The handlers cost the same whatever the networks are; the arithmetic grows with them. So the
# narrower the network, the more an engine saves. Both axes are logarithmic.

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
        # The first two steps are Pyro's own and the recording.
        found = milliseconds({name: (lambda step=step: step(x)) for name, step in steps.items()})
    for engine in engines:
        table[engine].append(found[engine])
    print(f"{width:>5} hidden units: " + ", ".join(f"{k} {v:.2f} ms" for k, v in found.items()))


def plain_ticks(axes, values):
    """Numbers as they are on logarithmic axes."""
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
axes.set(xlabel="hidden units", ylabel="milliseconds a step")
axes.legend()
figure.savefig(FIGURES / "13_engines.png", dpi=150)

# %% [markdown]
# ## When `auto` chooses what
#
# The default engine, `auto`, is eager at first, so that a short run pays for nothing. After 100
# steps of a kind (a shape of batch, a mode) it records that kind, which takes about as long as some
# dozens of steps. After 5,000 steps, and a few more for each operation of the step, it compiles
# it: by then the replays have saved about what compiling costs. The counts depend on nothing else,
# no clock and no number of epochs, so that a run that is stopped and resumed changes engines at the
# same steps and gives the same numbers.

# %%
with pyro.get_param_store().scope():
    svi = pvae.SVI(*pair(hidden=32), adam, Trace_ELBO())
    for _ in range(2):
        for _ in range(100):
            svi.step(x)
        print(svi.engine)

# %% [markdown]
# ## What a replay could miss, and why it does not
#
# A graph knows nothing of Python. If the model reads a number that changes, a branch or a mode, a
# stale graph would train wrongly without a word. So recordings are kept apart by all that pvae can
# see (arguments, shapes, modes, the numbers that your programs hold), and every so many steps a
# replay is compared with a step of Pyro's under the same random numbers. Here the scale of the
# likelihood is an attribute, and changing it is seen at once:


# %%
class Annealed:
    """A pair with a number that somebody changes half way."""

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
# A program that reads a value to decide what to do cannot be recorded. It runs as ever, and pvae
# says why, with the line:


# %%
def hesitant(x):
    loc = pyro.param("loc", torch.zeros(784))
    if loc.mean() > 0:  # what happens next depends on a number in a tensor
        loc = loc * 2
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)


with pyro.get_param_store().scope():
    svi = pvae.SVI(hesitant, lambda x: None, adam, Trace_ELBO(), engine="recorded")
    for _ in range(3):
        svi.step(x)
print(svi.engine)
for note in svi.notes:
    print("note:", note)

# %% [markdown]
# ## Precision
#
# Many processors multiply matrices of `bfloat16`, numbers of eight significant bits, faster than
# those of `float32`. `precision="bfloat16"` lets the *networks* do that. Parameters, distributions,
# log-probabilities and their sum stay in float32, so the bound is still a bound, of slightly
# rounded networks. What a processor cannot do is refused in a sentence.

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
    print(f"{precision:<8} {cost:6.2f} ms a step of the widest pair")

# %% [markdown]
# In narrow networks the conversions cost more than the products save. What it does to the bound is
# hardly to be seen:

# %%
digits = pvae.data.load("digits")
for precision in steps:
    model = pvae.models.VAE(x_shape=digits.x_shape, z_dim=8, hidden=128, levels=digits.levels,
                            likelihood="discretized_logistic")  # fmt: skip
    guide = pvae.guides.MeanField(x_shape=digits.x_shape, z_dim=8, hidden=128)
    fit = pvae.fit(
        model, guide, digits, epochs=3 if SHORT else 60, precision=precision, progress=False
    )
    bound = pvae.elbo(fit.model, fit.guide, digits.test, num_particles=10)
    print(f"{precision:<8} test bound {bound.mean:.2f} nats (standard error {bound.std_error:.2f})")

# %% [markdown]
# ## Scale
#
# What a step costs besides arithmetic it costs once, so larger batches train more data a second,
# until the arithmetic fills the processor. (How fast the *bound* rises is another matter: fewer
# steps are taken.)

# %%
sizes = [16, 64] if SHORT else [16, 32, 64, 128, 256, 512, 1024]
rates = {engine: [] for engine in ("eager", "recorded")}
for size in sizes:
    data = torch.rand(size, 784).bernoulli()
    with pyro.get_param_store().scope(), pyro.validation_enabled(False):
        programs = pair(hidden=128)
        steps = {e: pvae.SVI(*programs, adam, Trace_ELBO(), engine=e).step for e in rates}
        ways = {e: (lambda step=step, data=data: step(data)) for e, step in steps.items()}
        found = milliseconds(ways)
    for engine, cost in found.items():
        rates[engine].append(size / cost * 1e3)

figure, axes = plt.subplots(figsize=(5, 3.5), layout="constrained")
for engine, values in rates.items():
    axes.loglog(sizes, values, marker="o", label=engine)
    print(f"{engine:<9} {values[0]:>9,.0f} data a second in batches of {sizes[0]}, "
          f"{values[-1]:>9,.0f} in batches of {sizes[-1]}")  # fmt: skip
plain_ticks(axes, sizes)
axes.set(xlabel="data in a batch", ylabel="data a second")
axes.legend()
figure.savefig(FIGURES / "13_batches.png", dpi=150)

# %% [markdown]
# ## What to try next
#
# - `pvae bench my_pair.py:model my_pair.py:guide --data my_data.npz` makes the comparison for a
#   pair of your own; `pvae train ... --engine captured` compiles at once, for long runs of small
#   models.
# - Hold what changes during training in a tensor (`beta = torch.tensor(0.1)`, then
#   `beta.fill_(...)`): a graph reads it anew at each step, and nothing is recorded again.
# - Validation is Pyro's: `pyro.enable_validation(False)` for steps of your own; `pvae.fit` leaves
#   it on for the first epoch alone.
