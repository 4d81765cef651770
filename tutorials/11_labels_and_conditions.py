"""Labels and conditions: generate on demand, learn from few labels, find classes without any."""

# %% [markdown]
# # Labels and conditions
#
# After this tutorial you will be able to condition a VAE on a label or on a part of an image, to
# train a classifier and a generative model together from a few labels, to find classes without any,
# and to write a discrete latent variable that is summed out exactly.
#
# A label y can enter a model in three ways. It is *given*, as a condition: p(x | y). It is
# *sometimes* given: p(x, y), summed over y where it is missing. Or it is *never* given, and the
# model invents classes. The model hardly changes; what is known does. The figures go to the folder
# `figures`.

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
from torch import nn

import pvae

SHORT = os.environ.get("PVAE_SHORT") == "1"  # the tests run a short version
FIGURES = Path("figures")
FIGURES.mkdir(exist_ok=True)
size = {"x_shape": (8, 8), "z_dim": 8, "hidden": 32 if SHORT else 128}
training = {"epochs": 15 if SHORT else 150, "learning_rate": 2e-3, "progress": False, "seed": 1}


def strip(images):
    framed = nn.functional.pad(images, (1, 1, 1, 1), value=0.5)
    return torch.cat([torch.cat(list(row), 1) for row in framed.split(10)])


# %% [markdown]
# ## Given: a conditional VAE
#
# Every distribution of a conditional VAE has y as a condition (Sohn, Lee, Yan, 2015,
# https://papers.nips.cc/paper/5775), and so has the bound:
#
#     log p(x | y) >= E_q[log p(x | z, y)] - KL(q(z | x, y) || p(z | y))
#
# `labels=True` makes the labels the second argument of model and guide.

# %%
labelled = pvae.data.load("digits", binarize="threshold", labels=True)
torch.manual_seed(0)
pair = pvae.models.CVAE(**size), pvae.guides.Conditional(**size)
conditional = pvae.fit(*pair, labelled.train, **training)
y = torch.arange(10).repeat(4)
torch.manual_seed(1)
drawn = pvae.sample(conditional.model, (torch.zeros(40, 8, 8), y), mean=True)["x"]
figure, ax = plt.subplots(figsize=(6, 2.6), layout="constrained")
ax.imshow(strip(drawn), cmap="gray")
ax.set(xticks=[9.5 * n + 5 for n in range(10)], xticklabels=range(10), yticks=[], xlabel="y")
ax.set_title("draws from p(x | y)")
figure.savefig(FIGURES / "11_conditional.png", dpi=120)

# %% [markdown]
# A model of p(x | y) is also a classifier: by Bayes' rule, p(y | x) is proportional to p(x | y) for
# ten equally likely classes. Each log p(x | y) is estimated by importance sampling.


# %%
def log_likelihoods(fit, x):
    """log p(x | y) for each of ten labels, (rows, 10)."""
    columns = []
    for label in range(10):
        condition = torch.full((len(x),), label)
        estimate = pvae.log_likelihood(fit.model, fit.guide, (x, condition), 50)
        columns.append(estimate.per_datum)
    return torch.stack(columns, 1)


x, labels = labelled.test.first(100 if SHORT else 360)
accuracy = (log_likelihoods(conditional, x).argmax(1) == labels).float().mean().item()
print(f"p(x | y) as a classifier: {accuracy:.1%} of test digits")

# %% [markdown]
# ## Sometimes given: semi-supervised learning
#
# With 50 labels among 1,437 digits, a classifier alone has little to go by. The model M2 (Kingma,
# Rezende, Mohamed, Welling, 2014, https://arxiv.org/abs/1406.5298) describes all data:
#
#     p(x, y, z) = p(y) p(z) p(x | z, y),     q(y, z | x) = q(y | x) q(z | x, y)
#
# Where y is known, its bound is on log p(x, y). Where it is not, y is latent, and the expectation
# over q(y | x) is a sum over ten classes, without sampling:
#
#     log p(x) >= sum_y q(y | x) (L(x, y) - log q(y | x))
#
# That is *enumeration*. The site "y" of the guide is marked for it, and `pvae.fit` chooses
# `TraceEnum_ELBO`. Unknown labels are -1. The bound does not train q(y | x) on known labels, so
# `Classifier` adds their cross-entropy, with the weight `auxiliary`.

# %%
NUMBERS = (50,) if SHORT else (20, 50, 100, 200)


def classifier_alone(splits):
    """A classifier with the networks of the guide, trained on the known labels alone."""
    x, y = splits.train.first(len(splits.train))
    x, y = x[y >= 0], y[y >= 0]
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(64, size["hidden"]), nn.SiLU(), nn.Linear(size["hidden"], 10)
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    for _ in range(500):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x), y).backward()
        optimizer.step()
    x, y = labelled.test.first(len(labelled.test))
    return (network(x).argmax(1) == y).float().mean().item()


print("labels   classifier alone      M2")
for number in NUMBERS:
    few = pvae.data.load("digits", binarize="threshold", labels=number)
    torch.manual_seed(0)
    pair = pvae.models.SSVAE(**size), pvae.guides.Classifier(**size, auxiliary=20.0)
    m2 = pvae.fit(*pair, few.train, **training)
    found = pvae.evaluation.class_accuracy(m2.model, m2.guide, few.test).accuracy
    print(f"{number:<9}{classifier_alone(few):>16.1%}{found:>8.1%}")

# %% [markdown]
# The digits without labels tell M2 what kinds of digits there are, and a few labels which is which.
# With two labels of a kind it may settle on other kinds than the labels mean, and do worse.
# As y and z share the work, z describes what the label does not: style. Let us keep z of one digit
# and change y.

# %%
sources = torch.tensor([0, 3, 7, 12, 20])
x, y = few.test.first(30)
z = pvae.infer(m2.guide, (x[sources], y[sources]))["z"]
codes = {"z": z.repeat_interleave(10, 0), "y": torch.arange(10).repeat(len(sources))}
styled = pvae.decode(m2.model, codes, (torch.zeros(50, 8, 8), codes["y"]))
figure, axes = plt.subplots(
    1, 2, figsize=(7, 3.2), layout="constrained", gridspec_kw={"width_ratios": [1, 10]}
)
axes[0].imshow(torch.cat(list(nn.functional.pad(x[sources], (1, 1, 1, 1), value=0.5))), cmap="gray")
axes[0].set(title="x", xticks=[], yticks=[])
axes[1].imshow(strip(styled), cmap="gray")
axes[1].set(title="the same z with each label", xticks=[], yticks=[])
figure.savefig(FIGURES / "11_styles.png", dpi=120)

# %% [markdown]
# ## Never given: classes without labels
#
# A mixture in the latent space, p(z | y) = N(z; loc_y, scale_y), finds clusters. Its bound has poor
# optima in which all classes are alike, so it begins at clusters of the codes of a plain VAE.

# %%
plain = pvae.data.load("digits", binarize="threshold")
torch.manual_seed(0)
vae = pvae.models.VAE(**size), pvae.guides.MeanField(**size)
first = pvae.fit(*vae, plain.train, **training)
model = pvae.models.GMVAE(**size)
guide = pvae.guides.Clusters(model, **size)
model.decoder.load_state_dict(vae[0].decoder.state_dict())
guide.encoder.load_state_dict(vae[1].encoder.state_dict())
model.start_at(pvae.infer(first.guide, plain.train)["z"])
before = pvae.evaluation.class_accuracy(model, guide, plain.test).matched
clusters = pvae.fit(model, guide, plain.train, **training)
after = pvae.evaluation.class_accuracy(clusters.model, clusters.guide, plain.test).matched
print(f"clusters that agree with digits: {before:.1%} at the start, {after:.1%} after training")

# %% [markdown]
# "Agree" means after the best assignment of clusters to digits. No label was used, and nothing says
# that clusters must be digits: 1 and 7 may share one, and two ways to write a 9 have two.
#
# ## A discrete variable of your own
#
# Any pair can have one. Mark the site in the guide, or in the model if the guide does not have it,
# with `infer={"enumerate": "parallel"}`: Pyro then runs the program once with a new dimension for
# all classes. The rest of the program only has to broadcast. Here, a VAE whose picture is drawn
# either as it is or inverted, one bit that nobody observes:

# %%
decoder = nn.Sequential(nn.Linear(8, 64), nn.SiLU(), nn.Linear(64, 64))
encoder = nn.Sequential(nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 16))


def either_way(x):
    pyro.module("decoder", decoder)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(8), 1.0).to_event(1))
        inverted = pyro.sample("inverted", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
        logits = decoder(z) * (1 - 2 * inverted)[..., None]
        pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)


def recognition(x):
    pyro.module("encoder", encoder)
    loc, raw = encoder(x).chunk(2, -1)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(loc, nn.functional.softplus(raw)).to_event(1))


x = plain.train.first(len(plain.train))[0].flatten(1)
torch.manual_seed(2)
flipped = torch.rand(len(x)) < 0.5
x[flipped] = 1 - x[flipped]
own = pvae.fit(either_way, recognition, x, **training)
p = pvae.marginals(own.model, own.guide, x, num_samples=20)["inverted"][:, 1]
right = ((p > 0.5) == flipped).float().mean().item()
print(f"the bit is recovered for {max(right, 1 - right):.1%} of the digits")

# %% [markdown]
# The guide has no site "inverted": it is summed out, and `pvae.marginals` computes its posterior by
# Bayes' rule. Whether "inverted" means 1 or 0 is for the model to choose, so the last line takes
# the better of both.
#
# ## What to try next
#
# 1. Use `CVAE(quadrants=2)` and `Conditional`, and complete the right half of a digit. Expect
#    several completions where a half belongs to several digits, as those of 3 and 8.
# 2. Set `auxiliary=0.0`. Expect a poor q(y | x): on data with labels no term of the bound trains
#    it.
# 3. Give `GMVAE` 20 classes. Expect two for digits that are written in two ways, such as 1 and 7.
# 4. Replace the bit by a `Categorical` over four rotations of the picture, `torch.rot90`. Expect a
#    digit that looks alike in two rotations, such as 0, to stay uncertain.
#
# Not said here: discrete variables that are too many to enumerate, for which the tutorial on
# Helmholtz machines has estimators, and continuous relaxations (`pvae.objectives.Concrete`).
