"""Sequences: a deep Markov model of four-part music, and what a model without time misses."""

# %% [markdown]
# # Sequences
#
# After this tutorial you will be able to write a VAE over time, with a latent state at each step,
# to see in numbers what it knows that a model of single steps does not, to continue a sequence, and
# to listen to what the model composes.
#
# A deep Markov model is a hidden Markov model whose transition and emission are networks:
#
#     p(x, z) = prod_t p(z_t | z_{t-1}) p(x_t | z_t)
#
# Its posterior factorizes over time as well: given z_{t-1} and the data, z_t depends on nothing
# before t. So the guide reads the data from the end (Krishnan, Shalit, Sontag, 2017,
# https://arxiv.org/abs/1609.09869):
#
#     q(z | x) = prod_t q(z_t | z_{t-1}, x_t, ..., x_T)
#
# The data are chorales by Bach, in quarter notes: which of 88 keys are down. They are read from the
# folder `jsb-chorales` in $PVAE_DATA; without them, the script composes four voices by a rule.
# Figures and sounds go to the folder `figures`.

# %%
import os
import wave
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import nn

import pvae

SHORT = os.environ.get("PVAE_SHORT") == "1"  # the tests run a short version
FIGURES = Path("figures")
FIGURES.mkdir(exist_ok=True)
STEPS = 16 if SHORT else 32


def chorales():
    """Training and test sequences of bool, (rows, STEPS, 88), that are at least as long."""
    splits = pvae.data.load("jsb-chorales")
    found = []
    for split in (splits.train, splits.test):
        x, lengths = split.first(len(split))
        found.append(x[lengths >= STEPS, :STEPS].float())
    return found


def rule(rows, generator):
    """Four voices that walk on the white keys, by steps of at most a third, each in its range."""
    scale = torch.tensor([0, 2, 4, 5, 7, 9, 11])
    white = (torch.arange(8)[:, None] * 12 + scale + 3).flatten()  # key 3 of a piano is a C
    white = white[white < 88]
    at = torch.tensor([18, 22, 26, 30]).repeat(rows, 1)
    x = torch.zeros(rows, STEPS, 88)
    for t in range(STEPS):
        move = torch.randint(-2, 3, at.shape, generator=generator)
        at = torch.maximum(torch.minimum(at + move, torch.tensor([21, 25, 29, 33])),
                           torch.tensor([15, 19, 23, 27]))  # fmt: skip
        x[torch.arange(rows)[:, None], t, white[at]] = 1.0
    return x


try:
    train, test = chorales()
    print(f"{len(train)} chorales for training, {len(test)} for the test, of {STEPS} quarter notes")
except (pvae.data.DownloadError, FileNotFoundError):
    generator = torch.Generator().manual_seed(0)
    train, test = rule(200, generator), rule(60, generator)
    print("the chorales are not there ($PVAE_DATA): four voices by a rule instead")

# %% [markdown]
# ## One step at a time
#
# The baseline knows chords and no time: a VAE of single quarter notes.

# %%
size = {"hidden": 32 if SHORT else 100}
training = {"learning_rate": 3e-3, "progress": False, "seed": 1, "clip_norm": 10.0}
epochs = 5 if SHORT else 60
torch.manual_seed(0)
pair = (
    pvae.models.VAE(x_shape=(88,), z_dim=16, **size),
    pvae.guides.MeanField(x_shape=(88,), z_dim=16, **size),
)
chords = pvae.fit(*pair, train.flatten(0, 1), epochs=epochs, **training)

# %% [markdown]
# ## With time
#
# `DMM` and `Combiner` are such a pair. All steps of a sequence are one site, `(batch, steps,
# z_dim)`, whose distribution is the chain; that is faster than a site for each step, and the same
# model.

# %%
shape = {"x_shape": (STEPS, 88), "z_dim": 16}
torch.manual_seed(0)
model = pvae.models.DMM(**shape, hidden=size["hidden"], transition=size["hidden"])
guide = pvae.guides.Combiner(**shape, rnn=size["hidden"])
epochs = 15 if SHORT else 400
music = pvae.fit(
    model, guide, train, epochs=epochs, batch_size=20,
    objective=f"elbo:warmup={epochs // 4}", **training,
)  # fmt: skip

# %% [markdown]
# ## What does it know?
#
# If steps were independent, a model of chords would be as good as any. The difference is what the
# past says about the present, in nats per quarter note. To check that it is time that counts, the
# third line gives the deep Markov model the same chords in a random order.

# %%
particles = 20 if SHORT else 200
torch.manual_seed(2)
mixed = torch.stack([x[torch.randperm(STEPS)] for x in test])


def per_note(fit, x, scale):
    found = pvae.log_likelihood(fit.model, fit.guide, x, particles)
    return -found.mean / scale, found.mc_error / scale


print("-log p(x) per quarter note, nats")
for name, value in {
    "chords, without time": per_note(chords, test.flatten(0, 1), 1),
    "deep Markov model": per_note(music, test, STEPS),
    "deep Markov model, shuffled": per_note(music, mixed, STEPS),
}.items():
    print(f"{name:<30}{value[0]:>7.2f}  (Monte Carlo error {value[1]:.2f})")

# %% [markdown]
# (Importance sampling of a whole sequence has a large variance, and its bias makes the second line
# too high, not too low.)
#
# ## Drawing, looking, listening

# %%
torch.manual_seed(4)
drawn = pvae.sample(music.model, torch.zeros(3, STEPS, 88))["x"]
alone = pvae.sample(chords.model, torch.zeros(STEPS, 88))["x"]
rolls = {"data": test[0], "deep Markov model": drawn[0], "chords, without time": alone}
figure, axes = plt.subplots(3, 1, figsize=(8, 7), layout="constrained", sharex=True)
for ax, (name, roll) in zip(axes, rolls.items(), strict=True):
    ax.imshow(roll.T[20:70], aspect="auto", origin="lower", cmap="Greys", interpolation="nearest")
    ax.set(title=name, ylabel="key")
axes[-1].set_xlabel("quarter note")
figure.savefig(FIGURES / "12_rolls.png", dpi=120)


def listen(roll, path, rate=16_000, seconds=0.4):
    """Write a piano roll as sound: a decaying tone for each key."""
    time = np.arange(int(rate * seconds)) / rate
    parts = []
    for step in roll.numpy():
        tones = [np.sin(2 * np.pi * 440 * 2 ** ((key - 48) / 12) * time)
                 for key in np.flatnonzero(step)]  # fmt: skip
        parts.append(sum(tones, np.zeros_like(time)) * np.exp(-3 * time))
    sound = np.concatenate(parts)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((sound / np.abs(sound).max() * 30_000).astype("<i2").tobytes())


for name, roll in (("data", test[0]), ("drawn", drawn[0]), ("chords", alone)):
    listen(roll, FIGURES / f"12_{name}.wav")
print("sounds:", *sorted(path.name for path in FIGURES.glob("12_*.wav")))

held = {name: (roll[1:] * roll[:-1]).sum() / roll[1:].sum() for name, roll in rolls.items()}
for name, value in held.items():
    print(f"{name:<30}keys that were down a step before: {value:.0%}")

# %% [markdown]
# The picture of the middle has lines: voices that stay or move by a little. The lower one has none.
#
# ## Going on from a beginning
#
# To continue a sequence, infer the state at its end and let the model go on. Nothing new is needed:
# the guide gives z for the first half, the transition of the model the rest.

# %%
half = STEPS // 2
torch.manual_seed(5)
z = pvae.infer(music.guide, test[:1, :half], num_samples=200)["z"][:, 0]  # (200, half, z_dim)
state, going = z[:, -1], []
with torch.no_grad():
    for _ in range(STEPS - half):
        loc, scale = music.model.transition(state)
        state = loc + scale * torch.randn_like(scale)
        going.append(music.model.emission(state).sigmoid())
forecast = torch.stack(going, 1).mean(0)  # probability of each key, over 200 continuations

figure, axes = plt.subplots(2, 1, figsize=(8, 5), layout="constrained", sharex=True)
axes[0].imshow(test[0].T[20:70], aspect="auto", origin="lower", cmap="Greys")
together = torch.cat([test[0, :half], forecast])
axes[1].imshow(together.T[20:70], aspect="auto", origin="lower", cmap="Greys")
for ax, title in zip(axes, ("what was played", "first half, and forecast"), strict=True):
    ax.axvline(half - 0.5, color="C1")
    ax.set(title=title, ylabel="key")
axes[1].set_xlabel("quarter note")
figure.savefig(FIGURES / "12_forecast.png", dpi=120)

# %% [markdown]
# The forecast is sharp for a note or two and then fades to the mean of the music: the model does
# not know which way it will go, and says so.
#
# ## The same model by hand
#
# `DMM` is fast because it treats time in one site. Written naively, with a site for each step, a
# deep Markov model is a loop, and as good a Pyro program:

# %%
WIDTH, SHORTER = 8, 8
move, emit = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(WIDTH, 88)
read, combine = nn.GRU(88, 32, batch_first=True), nn.Linear(32 + WIDTH, 2 * WIDTH)


def gaussian(output):
    loc, raw = output.chunk(2, -1)
    return dist.Normal(loc, nn.functional.softplus(raw) + 1e-3).to_event(1)


def chain(x):
    pyro.module("move", move)
    pyro.module("emit", emit)
    with pyro.plate("data", len(x)):
        z = torch.zeros(len(x), WIDTH)
        for t in range(x.shape[1]):
            z = pyro.sample(f"z{t}", gaussian(move(z)))
            pyro.sample(f"x{t}", dist.Bernoulli(logits=emit(z)).to_event(1), obs=x[:, t])


def backwards(x):
    pyro.module("read", read)
    pyro.module("combine", combine)
    future = read(x.flip(1))[0].flip(1)
    with pyro.plate("data", len(x)):
        z = torch.zeros(len(x), WIDTH)
        for t in range(x.shape[1]):
            z = pyro.sample(f"z{t}", gaussian(combine(torch.cat([future[:, t], z], -1))))


by_hand = pvae.fit(chain, backwards, train[:, :SHORTER], epochs=3, batch_size=20, **training)
print(f"by hand: {by_hand.history[-1]['train_loss'] / SHORTER:.2f} nats per note; {by_hand.engine}")

# %% [markdown]
# ## What to try next
#
# 1. Give `Combiner` two `transforms`, coupling flows at each step. Expect the bound to come nearer
#    to log p(x), after a longer training.
# 2. Train with `STEPS` of 64. Sequences that are shorter need their lengths as a second argument,
#    `(x, lengths)`: steps after the end then count nowhere.
# 3. Make the forecast of only one continuation, and listen to it. Expect chords where the mean of
#    many continuations has shades.
#
# Not said here: long sequences need truncated gradients or state-space models with parallel scans;
# particle filters give tighter bounds on log p(x) than the importance sampling used above.
