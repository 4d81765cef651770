"""Priors: what does a fixed p(z) cost, and what does a learned one change?"""

# %% [markdown]
# # Priors
#
# After this tutorial you will be able to measure how much of a VAE's bound is lost to its prior, to
# replace a standard Gaussian by a mixture, a VampPrior or a flow, and to write a prior of your own.
#
# The KL term of the bound, averaged over the data, has two parts (Hoffman, Johnson, "ELBO Surgery",
# 2016). Let q(z) = mean_n q(z | x_n) be the *aggregated posterior*, the distribution of codes of
# all data together. Then
#
#     E_x KL(q(z | x) || p(z)) = I(x; z) + KL(q(z) || p(z))
#
# The first part is the information that z carries about x: it pays for reconstruction. The second
# one buys nothing. It is zero if p(z) = q(z), and no other prior has a higher bound with the same
# guide and decoder. It is also what spoils samples: they come from p(z), while the decoder was
# trained on codes from q(z). The figures go to the folder `figures`.

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt
import pyro.distributions as dist
import torch
from torch import nn

import pvae

SHORT = os.environ.get("PVAE_SHORT") == "1"  # the tests run a short version
FIGURES = Path("figures")
FIGURES.mkdir(exist_ok=True)
digits = pvae.data.load("digits", binarize="threshold")
size = {"x_shape": digits.x_shape, "hidden": 32 if SHORT else 128}
training = {"epochs": 8 if SHORT else 250, "learning_rate": 2e-3, "progress": False, "seed": 1}
test = digits.test
PRIORS = ("standard", "learned", "mixture", "vamp", "flow")


def train(prior, z_dim):
    torch.manual_seed(0)
    model = pvae.models.VAE(**size, z_dim=z_dim, prior=prior, components=20)
    return pvae.fit(model, pvae.guides.MeanField(**size, z_dim=z_dim), digits.train, **training)


# %% [markdown]
# ## Five priors
#
# - "standard": N(0, I), with nothing to learn.
# - "learned": a Gaussian with independent dimensions, whose mean and scale are trained.
# - "mixture": a mixture of such Gaussians.
# - "vamp": a mixture of the guide's posteriors at trained inputs, p(z) = mean_k q(z | u_k)
#   (Tomczak, Welling, "VAE with a VampPrior", 2018, https://arxiv.org/abs/1705.07120).
# - "flow": a Gaussian transformed by an invertible network.
#
# A prior is a part of the model, and trained by the same bound. Latent spaces of 16 numbers:

# %%
fits = {prior: train(prior, 16) for prior in PRIORS}
rows = digits.train[: 300 if SHORT else 1000]
print("prior       bound (test)   log p(x)   KL (train)   information   KL(q(z) || p(z))")
for prior, fit in fits.items():
    bound = pvae.elbo(fit.model, fit.guide, test, 20).mean
    likelihood = pvae.log_likelihood(fit.model, fit.guide, test, 50 if SHORT else 1000).mean
    parts = pvae.evaluation.information(fit.model, fit.guide, rows)
    print(
        f"{prior:<10}{bound:>14.2f}{likelihood:>11.2f}{parts.kl.mean:>13.2f}"
        f"{parts.mutual_information.mean:>14.2f}{parts.aggregated.mean:>19.2f}"
    )

# %% [markdown]
# The last column is the price of the prior. (With N data, the information cannot be measured above
# log N, here 6.9 nats: what exceeds it appears in the last column. The column compares priors; its
# zero is not to be trusted.) The learned Gaussian gains little, since a network can scale and shift
# z as well as the prior can. The others can be where the codes are.
#
# ## A picture
#
# In two dimensions the two distributions can be drawn: the prior as contours, and codes of the
# training data, from q(z), as dots.

# %%
flat = {prior: train(prior, 2) for prior in ("standard", "mixture", "vamp", "flow")}
x = digits.train.first(len(digits.train))[0]
figure, axes = plt.subplots(1, 4, figsize=(14, 3.8), layout="constrained")
for ax, (prior, fit) in zip(axes, flat.items(), strict=True):
    torch.manual_seed(2)
    z = pvae.infer(fit.guide, x, num_samples=1)["z"][0]
    drawn = pvae.sample(fit.model, torch.zeros(4000, *digits.x_shape))["z"]
    both = torch.cat([z, drawn])
    ends = torch.stack([both.quantile(0.001, 0), both.quantile(0.999, 0)], 1).tolist()
    ax.hist2d(*drawn.T.numpy(), bins=70, range=ends, cmap="Blues", density=True)
    ax.scatter(*z.T, c=digits.train.labels, cmap="tab10", s=2)
    ax.set(title=prior, xlabel="z1", xlim=ends[0], ylim=ends[1])
axes[0].set_ylabel("z2")
figure.suptitle(
    "draws from p(z) in blue, codes of the training digits in the colours of the labels"
)
figure.savefig(FIGURES / "08_codes.png", dpi=120)

# %% [markdown]
# The standard Gaussian has mass where there are no codes, in the gaps between the digits; draws
# from there are the blurred shapes between two digits. To put a number on it, let us ask how many
# pixels lie between a drawn picture and the nearest training digit, and the other way round: how
# far a test digit is from the nearest drawn one, which grows if a prior leaves out a kind of digit.


# %%
def distance(some, others):
    nearest = torch.cdist(some.round().flatten(1), others.round().flatten(1), p=1).min(1).values
    return nearest.mean().item()


seen = test.first(len(test))[0]
pictures = {}
print("pixels       draw to digit   digit to draw")
for prior, fit in fits.items():
    torch.manual_seed(3)
    pictures[prior] = pvae.sample(fit.model, torch.zeros(400, *digits.x_shape), mean=True)["x"]
    there, back = distance(pictures[prior], x), distance(seen, pictures[prior])
    print(f"{prior:<10}{there:>16.1f}{back:>16.1f}")

figure, axes = plt.subplots(5, 1, figsize=(8, 5), layout="constrained")
for ax, (prior, drawn) in zip(axes, pictures.items(), strict=True):
    strip = nn.functional.pad(drawn[:20], (1, 1, 1, 1), value=0.5)
    ax.imshow(torch.cat(list(strip), 1), cmap="gray", vmin=0, vmax=1)
    ax.set(yticks=[], xticks=[])
    ax.set_ylabel(prior, rotation=0, ha="right", va="center")
figure.savefig(FIGURES / "08_draws.png", dpi=120)

# %% [markdown]
# ## A prior of your own
#
# A prior is a module whose `forward` returns a distribution over z. Say that each code belongs on a
# sphere: z is uniform on its direction, and its length is near a trained radius. Here is an
# approximation of it, a mixture of narrow Gaussians with centres on the sphere. Only the radius and
# the width are trained.


# %%
class Sphere(pvae.priors.Prior):
    """A mixture of Gaussians around fixed directions."""

    def __init__(self, z_dim, centres=200):
        super().__init__(z_dim)
        generator = torch.Generator().manual_seed(0)
        directions = torch.randn(centres, z_dim, generator=generator)
        self.register_buffer("directions", nn.functional.normalize(directions, dim=1))
        self.log_radius = nn.Parameter(torch.tensor(1.0))
        self.log_width = nn.Parameter(torch.tensor(0.0))

    def forward(self):
        where = self.log_radius.exp() * self.directions
        each = dist.Normal(where, self.log_width.exp()).to_event(1)
        even = dist.Categorical(logits=torch.zeros(len(where), device=where.device))
        return dist.MixtureSameFamily(even, each)


sphere = train(Sphere(16), 16)
bound = pvae.elbo(sphere.model, sphere.guide, test, 20).mean
prior = sphere.model.prior
print(f"sphere: bound {bound:.2f}, radius {prior.log_radius.exp().item():.2f}, "
      f"width {prior.log_width.exp().item():.2f}")  # fmt: skip

# %% [markdown]
# Each of its Gaussians is wide in all 16 directions, so that the mixture blurs the sphere, and its
# bound is that of the standard prior, which in 16 dimensions has nearly all of its mass near a
# sphere as well. The bound cares about where on the sphere the codes are, and that is not trained
# here: let `directions` be a parameter, and it is.
#
# ## What to try next
#
# 1. Give "vamp" 2 and then 100 components. Expect the bound to rise with the first dozens, and
#    little after: ten classes of digits have so many kinds.
# 2. Train with `warmup=50`. Which part of the KL term changes?
# 3. Compare `parts.mutual_information` for `z_dim` 2 and 16. Expect more nats, and most of them in
#    better reconstructions.
# 4. Fit a mixture to the codes *after* training with the standard prior, as the tutorial on
#    autoencoders does. Expect less than the mixture that was trained along: the codes had been
#    pressed into one Gaussian.
#
# Not said here: priors with structure, such as one Gaussian per class (the tutorial on labels), a
# chain over time (sequences), and a hierarchy, whose upper layers are the prior of the lower ones.
