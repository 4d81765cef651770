"""Tables with holes: train on what is there, and fill in what is not, with its uncertainty."""

# %% [markdown]
# # Tables with holes
#
# After this tutorial you will be able to train a VAE on a table of numbers, counts and classes in
# which cells are missing, to draw the missing ones from their distribution given the others, to
# check that distribution, and to say when all of this is wrong.
#
# The bound needs no repair. Of each datum some cells x_s are seen. The model factorizes over cells
# given z, so the missing ones integrate out:
#
#     log p(x_s) >= E_q[sum over seen cells of log p(x_d | z)] - KL(q(z | x_s) || p(z))
#
# and the guide must infer z from what is seen. Nothing is filled in before training. The figures go
# to the folder `figures`.

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
from torch.nn.functional import softplus

import pvae

SHORT = os.environ.get("PVAE_SHORT") == "1"  # the tests run a short version
FIGURES = Path("figures")
FIGURES.mkdir(exist_ok=True)
ROWS = 500 if SHORT else 4000

# %% [markdown]
# ## A table whose truth is known
#
# So that every answer can be checked, the table comes from a program: two hidden factors, size and
# age, and five columns of different kinds. In NaN lies what is missing; here, 30 % of the cells, at
# random.

# %%
KINDS = {"height": "real", "income": "pos", "children": "count", "education": "ordinal",
         "region": "cat"}  # fmt: skip
NAMES = list(KINDS)
CLASSES = {"education": 4, "region": 3}


def columns_given(size, age):
    """The distributions of the columns given the factors."""
    above = torch.stack([1.0 + age, age - 0.2, age - 1.4], -1).sigmoid()  # p(class above k)
    one = torch.ones_like(size)[..., None]
    above = torch.cat([one, above, 0 * one], -1)
    return (
        dist.Normal(170 + 9 * size, 4.0),
        dist.LogNormal(3.0 + 0.5 * age + 0.2 * size, 0.4),
        dist.Poisson(softplus(0.5 + 1.5 * age)),
        dist.Categorical(probs=(above[..., :-1] - above[..., 1:]).clamp(min=1e-6)),
        dist.Categorical(logits=torch.stack([1.5 * size, torch.zeros_like(size), 1.5 * age], -1)),
    )


def truth(x):
    """The program that the table comes from, as a model whose missing cells are left out."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        parts = columns_given(z[..., 0], z[..., 1])
        for place, part in enumerate(parts):
            value = x[..., place]
            seen = ~value.isnan()
            pyro.sample(NAMES[place], part.mask(seen), obs=value.nan_to_num(nan=1.0))


torch.manual_seed(0)
whole = torch.stack([part.sample() for part in columns_given(*torch.randn(2, ROWS))], 1)
holes = torch.rand(whole.shape) < 0.3
table = whole.masked_fill(holes, torch.nan)
print(f"{ROWS} rows; rows without a hole: {(~holes.any(1)).sum().item()}")
print(table[:4])

# %% [markdown]
# With 30 % of the cells gone, one row in six is complete. Throwing the others away would throw away
# most of what is known.
#
# ## Training
#
# The model `Tabular` has a likelihood for each column. A network's outputs are around 0 and 1, so
# numbers come with their units, `loc` and `scale` of the cells that are seen ("pos" is Gaussian in
# log(1 + x), and has the units of that). `missing="nan"` tells `fit` what NaN means; without it,
# NaN in data is an error.


# %%
def columns_of(x):
    found = []
    for name, value in zip(NAMES, x.T, strict=True):
        column = {"kind": KINDS[name]}
        seen = value[~value.isnan()]
        if name in CLASSES:
            column["classes"] = CLASSES[name]
        elif name == "income":
            column |= {"loc": seen.log1p().mean().item(), "scale": seen.log1p().std().item()}
        elif name == "height":
            column |= {"loc": seen.mean().item(), "scale": seen.std().item()}
        found.append(column)
    return found


COLUMNS = columns_of(table)
torch.manual_seed(0)
size = {"columns": COLUMNS, "z_dim": 4, "hidden": 64}
model, guide = pvae.models.Tabular(x_shape=(5,), **size), pvae.guides.Tabular(**size)
fit = pvae.fit(
    model, guide, table, missing="nan", epochs=40 if SHORT else 100, learning_rate=3e-3,
    batch_size=100, seed=1, progress=False,
)  # fmt: skip

# %% [markdown]
# ## Filling in
#
# `pvae.impute` draws from p(x_missing | x_seen): z from the guide, weighted by p(x_seen, z) / q(z |
# x_seen) so that errors of the guide are corrected, and then the missing cells from the model. Many
# draws of a cell show how uncertain it is. For one number per cell, `by_column` takes the mean,
# median or most frequent class.
#
# The truth is a model too. Under the program that the table came from, the best possible guess is
# its posterior mean; with two factors, importance sampling from the prior gets there.

# %%
filled = pvae.impute(fit.model, fit.guide, table, num_samples=50, num_particles=100)


def best_guess(x, particles=2000):
    """The posterior mean or mode of each cell under the true program."""
    z = torch.randn(particles, 2)
    parts = columns_given(z[:, 0], z[:, 1])
    weights = torch.zeros(len(x), particles)
    for place, part in enumerate(parts):
        value = x[:, place, None]
        weights += torch.where(value.isnan(), 0.0, part.log_prob(value.nan_to_num(nan=1.0)))
    weights = weights.softmax(1)
    guesses = []
    for place, part in enumerate(parts):
        if COLUMNS[place]["kind"] in ("cat", "ordinal"):
            guesses.append((weights @ part.probs).argmax(1).float())
        elif COLUMNS[place]["kind"] == "pos":
            guesses.append((weights @ part.loc).exp())
        else:
            guesses.append(weights @ part.mean)
    return torch.stack(guesses, 1)


def simple(x):
    """The mean of the column, of income on the scale of logarithms, or the most frequent class."""
    columns = []
    for place, column in enumerate(COLUMNS):
        seen = x[:, place][~x[:, place].isnan()]
        of_class = column["kind"] in ("cat", "ordinal")
        if column["kind"] == "pos":
            columns.append(seen.log().mean().exp())
        else:
            columns.append(seen.mode().values if of_class else seen.mean())
    return torch.stack(columns).expand(len(x), -1)


def errors(guess):
    """Wrong classes on holes; of numbers the root mean squared error over their spread."""
    found = []
    for place, column in enumerate(COLUMNS):
        at = holes[:, place]
        true, own = whole[at, place], guess[at, place]
        if column["kind"] == "pos":
            true, own = true.log(), own.log()
        if column["kind"] in ("cat", "ordinal"):
            found.append((true != own).float().mean().item())
        else:
            found.append(((true - own).square().mean().sqrt() / true.std()).item())
    return found


print("error on holes       " + "".join(f"{name:>11}" for name in NAMES))
for name, guess in {
    "mean or mode": simple(table),
    "VAE": filled.by_column(COLUMNS),
    "the true program": best_guess(table),
}.items():
    print(f"{name:<21}" + "".join(f"{value:>11.2f}" for value in errors(guess)))

# %% [markdown]
# What remains of the last line is noise that no method can remove. The VAE was told the kinds of
# the columns, and nothing else.
#
# ## Is the uncertainty right?
#
# A single guess per cell is not what a later analysis needs: cells filled with means have too
# little spread, and correlations that are too strong. Draws have the right ones, if the
# distribution is right. That can be tested: of the true values, 80 % should lie in the middle 80 %
# of the draws.

# %%
levels = torch.linspace(0.05, 0.95, 19)
figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
for place in (0, 1):
    draws, at = filled.draws[:, :, place], holes[:, place]
    inside = []
    for level in levels:
        low, high = draws.quantile((1 - level) / 2, 0), draws.quantile((1 + level) / 2, 0)
        covered = (whole[:, place] >= low) & (whole[:, place] <= high)
        inside.append(covered[at].float().mean().item())
    axes[0].plot(levels, inside, marker="o", markersize=3, label=NAMES[place])
    print(f"{NAMES[place]}: {inside[15]:.0%} of the true values in the middle 80 % of the draws")
axes[0].plot([0, 1], [0, 1], "k:")
axes[0].set(xlabel="middle share of the draws", ylabel="true values inside", title="coverage")
axes[0].legend()


def correlation(x, rows):
    return torch.corrcoef(torch.stack([x[rows, 0], x[rows, 1].log()]))[0, 1].item()


either = holes[:, :2].any(1)
bars = {
    "truth": correlation(whole, either),
    "mean": correlation(torch.where(holes, simple(table), whole), either),
    "best guess": correlation(torch.where(holes, filled.by_column(COLUMNS), whole), either),
    "one draw": correlation(filled.draws[0], either),
}
axes[1].bar(list(bars), list(bars.values()), color=["C7", "C1", "C2", "C0"])
axes[1].set(title="correlation of height and log income", ylabel="rows with a hole")
figure.savefig(FIGURES / "13_coverage.png", dpi=120)
print("correlation: " + ", ".join(f"{name} {value:.2f}" for name, value in bars.items()))

# %% [markdown]
# ## When it is wrong
#
# The bound above leaves out *why* a cell is missing. That is right if the reason depends on
# nothing, or on seen cells only ("missing at random"). It is wrong if it depends on the missing
# value itself. Suppose that people with a high income do not tell it:

# %%
income = whole[:, 1]
hidden = torch.rand(ROWS) < torch.sigmoid(2 * (income.log() - 3.3) / 0.5)
silent = whole.clone()
silent[hidden, 1] = torch.nan
torch.manual_seed(0)
model, guide = pvae.models.Tabular(x_shape=(5,), **size), pvae.guides.Tabular(**size)
other = pvae.fit(
    model, guide, silent, missing="nan", epochs=40 if SHORT else 100, learning_rate=3e-3,
    batch_size=100, seed=1, progress=False,
)  # fmt: skip
drawn = pvae.impute(other.model, other.guide, silent, num_samples=50).draws[:, hidden, 1]
print(f"median income: all {income.median():.0f}, hidden {income[hidden].median():.0f}, "
      f"drawn for the hidden {drawn.median():.0f}")  # fmt: skip

figure, ax = plt.subplots(figsize=(6.5, 3.8), layout="constrained")
bins = torch.linspace(0, 100, 50).numpy()
for name, values in {
    "seen": income[~hidden], "hidden": income[hidden], "drawn for the hidden": drawn.flatten(),
}.items():  # fmt: skip
    ax.hist(values.numpy(), bins=bins, density=True, histtype="step", label=name)
ax.set(xlabel="income", ylabel="density", title="income that is hidden because it is high")
ax.legend()
figure.savefig(FIGURES / "13_silence.png", dpi=120)

# %% [markdown]
# The draws look like the incomes that were seen. No check of the fit on seen cells shows this: the
# model describes them well. The remedy is knowledge from outside, in the form of a model of the
# reason: a site `told ~ Bernoulli(f(income))` in the program, observed for everybody.
#
# ## What to try next
#
# 1. Write that site. Expect draws near the truth with f known, and less near with f learned.
# 2. Hide 70 % of the cells. Expect the columns that others predict to lose most.
# 3. Give `Tabular` `components=3`, a mixture as prior. Expect a higher bound on seen cells if the
#    rows have groups.
# 4. A table of your own: `pvae train tabular --data mine.csv` finds the kinds of its columns.
#
# Not said here: images with holes, for which `missing` works as well, and time series that stop.
