"""Figures 2 to 5 of "Auto-Encoding Variational Bayes", remade: `python paper_aevb.py [--full]`."""

# %% [markdown]
# # Auto-Encoding Variational Bayes, remade
#
# Kingma and Welling compare their estimator with wake-sleep and Monte Carlo EM on MNIST and the
# Frey Face film (2013, https://arxiv.org/abs/1312.6114). This script makes their four figures. The
# protocol is theirs: one hidden layer of tanh units, 500 for MNIST and 200 for faces, batches of
# 100, one draw per datum, Adagrad with a rate of 0.01, weights that start with a variance of 0.01
# and have a standard normal prior, and networks that give the logarithms of variances. `--full`
# takes their numbers of samples, up to 10^8; without it each curve ends early, and the script after
# about twenty minutes on two cores. Data are read from `$PVAE_DATA`.

# %%
import argparse
import json
import time
from pathlib import Path

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
from torch import nn

import pvae

parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
parser.add_argument("--full", action="store_true", help="the numbers of samples of the paper")
parser.add_argument("--tiny", action="store_true", help="a few steps of everything")
options, _ = parser.parse_known_args()
FIGURES = Path("figures")
FIGURES.mkdir(exist_ok=True)
BATCH = 100
SAMPLES = 20_000 if options.tiny else 20_000_000 if options.full else 300_000
POINTS = 2 if options.tiny else 10  # of each curve
# Of figure 3.
SMALL = 10_000 if options.tiny else 10_000_000 if options.full else 500_000
CHAINS = {"num_particles": 4, "num_samples": 40} if options.tiny else {"num_particles": 8}
FEW = 10 if options.tiny else 1000 if options.full else 50  # data of a marginal likelihood
# A reproduction by others: 18 million samples, test bounds in nats.
REPORTED = {
    "AEVB": {3: -141.30, 5: -124.41, 10: -107.57, 20: -100.61, 200: -99.23},
    "wake-sleep": {3: -146.83, 5: -127.97, 10: -112.97, 20: -106.35, 200: -108.02},
}

# %% [markdown]
# ## Data and pair


# %%
def load():
    """Training and test images of both data sets, flat and in [0, 1]."""
    mnist = pvae.data.load("mnist", binarize="static")
    faces = pvae.data.load("frey-faces")
    frames = torch.cat([s.first(2000)[0] for s in (faces.train, faces.valid, faces.test)])
    frames = frames[torch.randperm(len(frames), generator=torch.Generator().manual_seed(0))]
    train, test = (split.first(len(split))[0].flatten(1) for split in (mnist.train, mnist.test))
    return {
        "MNIST": (train, test, (28, 28)),
        "Frey Face": (frames[:1565].flatten(1), frames[1565:].flatten(1), (28, 20)),
    }


class Pair(nn.Module):
    """The paper's model and recognition network."""

    def __init__(self, x_dim, z_dim, hidden, *, binary):
        super().__init__()
        self.z_dim, self.binary = z_dim, binary
        outputs = x_dim if binary else 2 * x_dim
        self.decoder = nn.Sequential(
            nn.Linear(z_dim, hidden), nn.Tanh(), nn.Linear(hidden, outputs)
        )
        self.encoder = nn.Sequential(
            nn.Linear(x_dim, hidden), nn.Tanh(), nn.Linear(hidden, 2 * z_dim)
        )
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.1)

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(self.z_dim), 1.0).to_event(1))
            output = self.decoder(z)
            if self.binary:
                pyro.sample("x", dist.Bernoulli(logits=output).to_event(1), obs=x)
            else:
                loc, log_variance = output.chunk(2, -1)
                fn = dist.Normal(loc.sigmoid(), (log_variance.clamp(-8, 8) / 2).exp())
                pyro.sample("x", fn.to_event(1), obs=x)

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        loc, log_variance = self.encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, (log_variance / 2).exp()).to_event(1))


OBJECTIVES = {
    "AEVB": lambda: pyro.infer.Trace_ELBO(),
    "wake-sleep": pvae.objectives.WakeSleep,
    "Monte Carlo EM": lambda: pvae.objectives.MonteCarloEM(step_size=0.05),
}


def train(way, x, z_dim, hidden, samples, *, binary, callback=None, **more):
    """Train a pair; `samples` counts data with repetition, and a point comes after each share."""
    torch.manual_seed(0)
    pair = Pair(x.shape[1], z_dim, hidden, binary=binary)

    def adagrad(parameters):
        return torch.optim.Adagrad(parameters, lr=0.01, weight_decay=1 / len(x))

    steps = max(1, samples // BATCH // POINTS)
    return pvae.fit(
        pair.model, pair.guide, x, objective=OBJECTIVES[way](), optimizer=adagrad, epochs=POINTS,
        steps_per_epoch=steps, batch_size=BATCH, callback=callback, progress=False, **more,
    )  # fmt: skip


began = time.perf_counter()
data = load()
results = {"samples": SAMPLES, "figure 2": {}, "figure 3": {}}

# %% [markdown]
# ## Figure 2: the bound over training

# %%
SIZES = {"MNIST": (3, 5, 10, 20, 200), "Frey Face": (2, 5, 10, 20)}
kept = {}
figure, axes = plt.subplots(2, 5, figsize=(15, 6), layout="constrained")
for row, (name, sizes) in zip(axes, SIZES.items(), strict=True):
    x, test, _ = data[name]
    for ax, z_dim in zip(row, sizes, strict=False):
        for way in ("AEVB", "wake-sleep"):
            fit = train(
                way, x, z_dim, 500 if name == "MNIST" else 200, SAMPLES, binary=name == "MNIST",
                valid=test[:2000],
            )  # fmt: skip
            seen = [row["step"] * BATCH for row in fit.history]
            bounds = [row["valid_elbo"] for row in fit.history]
            ax.plot(seen, bounds, label=way)
            results["figure 2"].setdefault(name, {}).setdefault(way, {})[z_dim] = bounds
            if way == "AEVB":
                kept[name, z_dim] = fit
        ax.set(title=f"{name}, {z_dim} latents", xlabel="samples")
        if name == "MNIST":
            ax.set_ylim(-250, -90)
    row[0].set_ylabel("bound, nats per datum")
    row[0].legend()
axes[1, 4].axis("off")
figure.savefig(FIGURES / "aevb_2.png", dpi=120)
print(f"figure 2 after {(time.perf_counter() - began) / 60:.1f} minutes; test bounds at its end:")
for name, ways in results["figure 2"].items():
    for way, found in ways.items():
        last = "".join(f"{z_dim:>6}: {bounds[-1]:8.1f}" for z_dim, bounds in found.items())
        print(f"{name:<10} {way:<11}{last}")
for way, found in REPORTED.items():
    last = "".join(f"{z_dim:>6}: {bound:8.1f}" for z_dim, bound in found.items())
    print(f"reported   {way:<11}{last}   (18 million samples)")

# %% [markdown]
# ## Figure 3: the marginal likelihood
#
# The paper estimates log p(x) of training data by the method of its appendix D: posterior draws by
# Hamiltonian Monte Carlo, a density fitted to them, and the mean of its ratio to the joint. With
# three latents a grid gives the exact value, and the curves are exact here; the estimate stands
# beside it for AEVB, with chains that start at the guide. (Chains that start at the prior may not
# reach a narrow posterior, and the estimate is then far too low.) Monte Carlo EM needs chains for
# each datum in training, and is left out for 50,000 of them.

# %%
AXIS = torch.linspace(-5, 5, 31 if options.tiny else 61)
GRID = torch.cartesian_prod(AXIS, AXIS, AXIS)


def exact(fit, x):
    """Mean log p(x) over data of 784 bits, by a sum over the grid."""
    parts = []
    for z in GRID.split(20_000):
        p = pvae.decode(fit.model, {"z": z}, torch.zeros(len(z), 784)).clamp(1e-7, 1 - 1e-7)
        likelihood = x @ p.log().T + (1 - x) @ (1 - p).log().T
        prior = -z.square().sum(1) / 2 - 1.5 * torch.tensor(2 * torch.pi).log()
        parts.append((likelihood + prior).logsumexp(1))
    cell = 3 * (AXIS[1] - AXIS[0]).log()
    return (torch.stack(parts).logsumexp(0) + cell).mean().item()


figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained", sharey=True)
for ax, rows in zip(axes, (1000, 50_000), strict=True):
    x = data["MNIST"][0][:rows]
    ways = tuple(OBJECTIVES) if rows == 1000 else ("AEVB", "wake-sleep")
    for way in ways:
        curve = []

        def measure(fit, curve=curve, x=x):
            if len(fit.history) in (1, 4, POINTS):
                curve.append((fit.history[-1]["step"] * BATCH, exact(fit, x[:FEW])))

        fit = train(way, x, 3, 100, SMALL, binary=True, callback=measure)
        ax.plot(*zip(*curve, strict=True), marker="o", label=way)
        results["figure 3"].setdefault(rows, {})[way] = curve
        print(f"{rows:>6} rows, {way:<15} log p(x) of training data {curve[-1][1]:8.2f}")
        if way == "AEVB":
            estimate = pvae.evaluation.marginal_by_hmc(fit.model, fit.guide, x[:FEW], **CHAINS)
            print(f"             by appendix D {estimate.mean:8.2f} +- {estimate.mc_error:.2f}")
            if estimate.warning:
                print(estimate.warning)
    ax.set(title=f"{rows:,} rows", xlabel="samples")
    ax.legend()
axes[0].set_ylabel("log p(x), nats per datum")
figure.savefig(FIGURES / "aevb_3.png", dpi=120)

# %% [markdown]
# ## Figure 4: manifolds with two latents, and figure 5: samples
#
# In the short form, some samples have a light background: the weights of pixels that are always 0
# are still near where they began, and where the prior lies and no datum was, they decide.

# %%
x = data["MNIST"][0]
flat = train("AEVB", x, 2, 500, SAMPLES, binary=True)
for name, fit in (("MNIST", flat), ("Frey Face", kept["Frey Face", 2])):
    shape = data[name][2]
    like = torch.zeros(1, x.shape[1] if name == "MNIST" else 560)

    def decode(z, fit=fit, like=like, shape=shape):
        found = pvae.decode(fit.model, {"z": z}, like.expand(len(z), -1))
        return found.unflatten(-1, shape)

    picture = pvae.plots.manifold(decode, n=15, title=f"{name}: figure 4")
    picture.savefig(FIGURES / f"aevb_4_{name.split()[0].lower()}.png", dpi=120)

figure, axes = plt.subplots(1, 4, figsize=(14, 3.8), layout="constrained")
for ax, (z_dim, fit) in zip(
    axes, ((2, flat), *((size, kept["MNIST", size]) for size in (5, 10, 20))), strict=True
):
    torch.manual_seed(1)
    drawn = pvae.sample(fit.model, torch.zeros(100, 784), mean=True)["x"].view(10, 10, 28, 28)
    ax.imshow(drawn.permute(0, 2, 1, 3).reshape(280, 280), cmap="gray")
    ax.set(title=f"{z_dim} latents", xticks=[], yticks=[])
figure.savefig(FIGURES / "aevb_5.png", dpi=120)
results["minutes"] = (time.perf_counter() - began) / 60
Path("paper_aevb.json").write_text(json.dumps(results, indent=2) + "\n")
print(f"all figures after {results['minutes']:.1f} minutes; numbers in paper_aevb.json")
