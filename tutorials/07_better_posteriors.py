"""Better posteriors: where does the gap between the bound and log p(x) come from?"""

# %% [markdown]
# # Better posteriors
#
# After this tutorial you will be able to say what a bound loses and why, to choose among guides
# with a full covariance, a flow or importance weights, and to recognize what a guide with
# independent dimensions does to the model that is trained with it.
#
# Write log p(x) as an expectation under q, and the bound appears with what it lacks:
#
#     log p(x) = E_q[log p(x)] = E_q[log p(x, z) - log p(z | x)]
#              = E_q[log p(x, z) - log q(z | x)] + E_q[log q(z | x) - log p(z | x)]
#              =             ELBO                +   KL(q(z | x) || p(z | x))
#
# The KL divergence is never negative, so the ELBO is a lower bound, and the divergence is the gap.
# It has two parts (Cremer, Li, Duvenaud, "Inference Suboptimality in Variational Autoencoders",
# 2018, https://arxiv.org/abs/1801.03558). The *approximation gap* is what the best member of the
# family would leave, as no Gaussian has the shape of p(z | x). The *amortization gap* is what is
# lost besides, because one network answers for all x. The figures go to the folder `figures`.

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import pvae

SHORT = os.environ.get("PVAE_SHORT") == "1"  # the tests run a short version
FIGURES = Path("figures")
FIGURES.mkdir(exist_ok=True)
digits = pvae.data.load("digits", binarize="threshold")
size = {"x_shape": digits.x_shape, "z_dim": 2, "hidden": 32 if SHORT else 64}
training = {"epochs": 4 if SHORT else 300, "learning_rate": 2e-3, "progress": False, "seed": 1}
test = digits.test[: 60 if SHORT else 360]

# %% [markdown]
# ## A truth to compare with
#
# With two latent dimensions, log p(x) is an integral over a plane, and a grid gives it to many
# digits: p(x) is the sum of p(x | z) p(z) over the cells. No estimate is involved.

# %%
AXIS = torch.linspace(-5, 5, 61 if SHORT else 161)
GRID = torch.cartesian_prod(AXIS, AXIS)
CELL = 2 * (AXIS[1] - AXIS[0]).log()


def joint(model, x):
    """log p(x, z) of each datum at each point of the grid, (rows, points)."""
    like = torch.zeros(len(GRID), *digits.x_shape)
    p = pvae.decode(model, {"z": GRID}, like).flatten(1).clamp(1e-6, 1 - 1e-6)
    x = x.flatten(1)
    likelihood = x @ p.log().T + (1 - x) @ (1 - p).log().T
    return likelihood - GRID.square().sum(1) / 2 - torch.tensor(2 * torch.pi).log()


def log_evidence(model):
    x = test.first(len(test))[0]
    return (joint(model, x).logsumexp(1) + CELL).mean().item()


def gap(model, guide):
    """log p(x) minus the bound, in nats per datum."""
    return log_evidence(model) - pvae.elbo(model, guide, test, 200).mean


# %% [markdown]
# ## Three families
#
# `MeanField` is a Gaussian with independent dimensions, `FullRank` one with a full covariance, and
# `Flow` transforms a Gaussian by a neural spline, so that it may have several modes.

# %%
FAMILIES = {
    "mean field": pvae.guides.MeanField,
    "full rank": pvae.guides.FullRank,
    "flow": lambda **size: pvae.guides.Flow(**size, kind="spline", flow_hidden=(32,)),
}


def made(family):
    torch.manual_seed(0)
    return pvae.models.VAE(**size), FAMILIES[family](**size)


fits = {name: pvae.fit(*made(name), digits.train, **training) for name in FAMILIES}
print("trained with    bound   log p(x)      gap")
for name, fit in fits.items():
    evidence = log_evidence(fit.model)
    bound = evidence - gap(fit.model, fit.guide)
    print(f"{name:<12}{bound:>9.2f}{evidence:>11.2f}{evidence - bound:>9.2f}")

# %% [markdown]
# A richer guide ends with a higher log p(x). That is not a matter of inference alone: a guide is
# half of the training signal. The bound of a poor guide punishes the model for posteriors that the
# guide cannot follow, and the model learns to have simple ones.
#
# ## The model adapts to its guide
#
# To see it, take each of the three models as it is, and train a new guide of each family for it,
# while the model stays fixed.

# %%
table = torch.zeros(3, 3)
for row, fit in enumerate(fits.values()):
    fit.model.requires_grad_(False)
    for column, family in enumerate(FAMILIES):
        guide = made(family)[1]
        other = pvae.fit(fit.model, guide, digits.train, **training)
        table[row, column] = gap(other.model, other.guide)
    fit.model.requires_grad_(True)
print("gap of a new guide    " + "".join(f"{name:>12}" for name in FAMILIES))
for name, row in zip(FAMILIES, table, strict=True):
    print(f"model of {name:<12} " + "".join(f"{value:>12.2f}" for value in row.tolist()))

figure, ax = plt.subplots(figsize=(5, 4), layout="constrained")
picture = ax.imshow(table, cmap="viridis", vmin=0)
ax.set_xticks(range(3), FAMILIES)
ax.set_yticks(range(3), FAMILIES)
ax.set(xlabel="family of the new guide", ylabel="model trained with", title="gap, nats per datum")
for row in range(3):
    for column in range(3):
        value = table[row, column].item()
        color = "black" if value > table.max() / 2 else "white"
        ax.text(column, row, f"{value:.2f}", ha="center", va="center", color=color)
figure.savefig(FIGURES / "07_gaps.png", dpi=120)

# %% [markdown]
# Read a column from top to bottom: the same family of guides has a smaller gap under the model that
# was trained with a diagonal Gaussian, because that model's posteriors are nearer to diagonal
# Gaussians. Read a row from left to right to see what a family can do.
#
# The posteriors of four digits under the model that was trained with the flow, and what each new
# guide makes of them:

# %%
model = fits["flow"].model
model.requires_grad_(False)
x = test.first(len(test))[0]
spread = joint(model, x).softmax(1)
entropy = -(spread * spread.clamp(min=1e-30).log()).sum(1)
chosen = entropy.argsort(descending=True)[torch.tensor([0, 3, 9, 20])]  # wide posteriors
figure, axes = plt.subplots(4, 3, figsize=(8, 10), layout="constrained")
for column, family in enumerate(FAMILIES):
    fit = pvae.fit(model, made(family)[1], digits.train, **training)
    draws = pvae.infer(fit.guide, x[chosen], num_samples=300)["z"]
    for row, number in enumerate(chosen.tolist()):
        ax = axes[row, column]
        density = spread[number].view(len(AXIS), len(AXIS)).T
        ax.contourf(AXIS, AXIS, density, levels=12, cmap="Blues")
        ax.scatter(*draws[:, row].T, s=2, color="C1", alpha=0.5)
        left, low = (spread[number] @ GRID - 1.6).tolist()  # around the mean
        ax.set(xlim=(left, left + 3.2), ylim=(low, low + 3.2), aspect="equal")
    axes[0, column].set_title(family)
model.requires_grad_(True)
figure.supxlabel("z1")
figure.supylabel("z2")
figure.suptitle("p(z | x) in blue, draws from q(z | x) in orange")
figure.savefig(FIGURES / "07_posteriors.png", dpi=120)

# %% [markdown]
# ## How much is amortization?
#
# `amortization_gap` fits the parameters of q to each datum by itself and measures how much the
# bound rises. What remains of the gap is approximation.

# %%
print("                  gap   amortization   approximation")
few = test[:20] if SHORT else test[:200]
for name in ("mean field", "full rank"):
    fit = fits[name]
    x = few.first(len(few))[0]
    evidence = (joint(fit.model, x).logsumexp(1) + CELL).mean().item()
    whole = evidence - pvae.elbo(fit.model, fit.guide, few, 200).mean
    amortized = pvae.evaluation.amortization_gap(
        fit.model, fit.guide, few, num_steps=20 if SHORT else 500
    )
    print(f"{name:<12}{whole:>9.2f}{amortized.mean:>15.2f}{whole - amortized.mean:>16.2f}")

# %% [markdown]
# A larger encoder and longer training reduce the first part; only another family reduces the
# second.
#
# ## Importance weights
#
# There is a second way to tighten the bound: average K importance weights inside the logarithm
# (Burda, Grosse, Salakhutdinov, "Importance Weighted Autoencoders", 2015,
# https://arxiv.org/abs/1509.00519),
#
#     L_K = E[log (1/K) sum_k p(x, z_k) / q(z_k | x)],  L_1 = ELBO,  L_K -> log p(x)
#
# The guide stays a diagonal Gaussian, but it is now a proposal, not an approximation: it is
# punished for missing a mode, and not for being too wide.

# %%
weighted = pvae.fit(
    *made("mean field"), digits.train, objective=pvae.objectives.IWAE(num_particles=16), **training
)
print("mean field, trained by       bound       L_16   log p(x)")
for name, fit in (("the ELBO", fits["mean field"]), ("L_16", weighted)):
    bound = pvae.elbo(fit.model, fit.guide, test, 100).mean
    tight = pvae.log_likelihood(fit.model, fit.guide, test, 16).mean
    print(f"{name:<22}{bound:>12.2f}{tight:>11.2f}{log_evidence(fit.model):>11.2f}")

# %% [markdown]
# The ELBO of the second pair is worse, and its log p(x) is better: do not compare pairs by a bound
# that one of them was not trained for.
#
# ## Why a diagonal guide makes independent components
#
# In a linear model the effect of the family can be worked out. Factor analysis p(x | z) =
# N(W z, s^2 I) has the posterior covariance (I + W^T W / s^2)^-1. Rotating z changes W and leaves
# p(x) as it is, so maximum likelihood does not care which rotation it gets. A diagonal q does: its
# gap is zero only if W^T W is diagonal, with orthogonal columns. So the bound picks, among all
# equally likely models, the one with orthogonal columns, the principal components (Lucas, Tucker,
# Grosse, Norouzi, "Don't Blame the ELBO!", 2019, https://arxiv.org/abs/1911.02469).

# %%
torch.manual_seed(3)
scores = torch.randn(1000, 3) * torch.tensor([3.0, 2.0, 1.2])
mixed = scores @ torch.linalg.qr(torch.randn(10, 3)).Q.T + 0.3 * torch.randn(1000, 10)


def overlap(family, seed):
    """The largest cosine between two columns of W after training."""
    torch.manual_seed(seed)
    linear = {"x_shape": (10,), "z_dim": 3}
    pair = pvae.models.PPCA(**linear), FAMILIES[family](**linear, hidden=32)
    options = {**training, "epochs": 8 if SHORT else 200, "learning_rate": 5e-3}
    fit = pvae.fit(*pair, mixed, **options)
    columns = torch.nn.functional.normalize(fit.model.weight.detach(), dim=0)
    return (columns.T @ columns - torch.eye(3)).abs().max().item()


print("largest cosine between columns of W, by seed")
for family in ("mean field", "full rank"):
    found = [overlap(family, seed) for seed in range(1 if SHORT else 3)]
    print(f"{family:<12}" + "".join(f"{value:>8.2f}" for value in found))

# %% [markdown]
# With the diagonal guide the columns are nearly orthogonal for every seed; with the full covariance
# they end in any rotation. Deep VAEs do the same locally, which is one reason why single latent
# dimensions of a VAE can often be interpreted, and why that is a property of the guide, not of the
# data.
#
# ## What to try next
#
# 1. Give `Flow` kind="iaf". Expect it to miss posteriors with several modes: an affine
#    autoregressive flow of a Gaussian has one.
# 2. Train the mean-field encoder with hidden=256. Expect the cost of sharing a network to become
#    smaller, and that of the family to stay.
# 3. Use `pvae.objectives.DReG` in place of `IWAE`. Expect the same limit with less variance.
# 4. Give `overlap` data whose three scores have equal variance. Expect columns of no particular
#    direction: each rotation of them has the same likelihood and the same bound.
#
# Not said here: hierarchies of latent variables, in which q has a structure of its own (the
# tutorial on Helmholtz machines), and how to measure a gap without an exact log p(x): the tutorial
# on evaluation.
