"""Table 1 of "Importance Weighted Autoencoders", remade: `python paper_iwae.py [--full]`."""

# %% [markdown]
# # Importance Weighted Autoencoders, remade
#
# Burda, Grosse and Salakhutdinov train the same pairs with the evidence lower bound, averaged over
# k draws, and with the bound of k importance samples, and compare their test likelihoods (2015,
# https://arxiv.org/abs/1509.00519). This script makes the MNIST half of their Table 1. The protocol
# is theirs: tanh units, 784-200-200-50, or with two stochastic layers 784-200-200-100-100-100-50;
# Glorot's initialization; batches of 20; Adam; a learning rate of 0.001 * 10^(-i/7) for 3^i passes.
#
# `--full` makes i = 0, ..., 7: 3,280 passes, 9.8 million steps for each of the 18 trainings.
# Without it the script shows the order of the objectives, not the values of the table: one layer,
# dynamic binarization and k up to 5, over three seeds, 20 passes in batches of 100 with a learning
# rate that falls from 0.002 to 0 as a cosine, and likelihoods of 2,000 test images by 1,000
# samples, in half an hour on one core. (With batches of 20, the schedule above needs more than 40
# passes before importance weights do better than averages over as many draws.)
#
# Each training is a run folder in `runs/paper_iwae`: a script that was stopped goes on where it
# was. `--only dynamic-1-iwae` makes the entries whose names begin so; `paper_iwae.json` keeps what
# was made before. Data are read from `$PVAE_DATA`.

# %%
import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
from torch import nn

import pvae

parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
parser.add_argument("--full", action="store_true", help="the schedule and the table of the paper")
parser.add_argument("--tiny", action="store_true", help="a few steps of everything")
parser.add_argument("--only", default="", help="the beginning of the names of entries")
parser.add_argument("--seeds", type=int, help="number of seeds (3; with --full 1)")
options, _ = parser.parse_known_args()
SEEDS = options.seeds or (1 if options.full else 3)
PASSES = 1 if options.tiny else sum(3**i for i in range(8)) if options.full else 20
BATCH = 20 if options.full else 100
MOST_SAMPLES = 50 if options.full else 5  # k
ROWS = 400 if options.tiny else 60_000
TEST = 40 if options.tiny else 10_000 if options.full else 2000
PARTICLES = 50 if options.tiny else 5000 if options.full else 1000
FORM = "tiny" if options.tiny else "full" if options.full else "short"
FIGURES, RUNS = Path("figures"), Path("runs") / "paper_iwae" / FORM
FIGURES.mkdir(exist_ok=True)
# The paper's table, negative log-likelihoods in nats, by binarization, layers and objective; with
# one sample the two objectives are the same.
PAPER = {
    ("dynamic", 1, "elbo"): {1: 86.76, 5: 86.47, 50: 86.35},
    ("dynamic", 1, "iwae"): {5: 85.54, 50: 84.78},
    ("dynamic", 2, "elbo"): {1: 85.33, 5: 85.01, 50: 84.78},
    ("dynamic", 2, "iwae"): {5: 83.89, 50: 82.90},
    ("fixed", 1, "elbo"): {1: 88.71, 5: 88.83, 50: 89.05},
    ("fixed", 1, "iwae"): {5: 87.63, 50: 87.10},
    ("fixed", 2, "elbo"): {1: 88.08, 5: 87.63, 50: 87.86},
    ("fixed", 2, "iwae"): {5: 86.17, 50: 85.32},
}

# %% [markdown]
# ## The pair
#
# A block of two hidden layers gives a Gaussian. The guide goes up, x to z1 to z2; the model comes
# down. With one layer there is no z2, and z1 has 50 dimensions.


# %%
class Gaussian(nn.Module):
    """A Gaussian with independent dimensions, from two hidden layers of tanh units."""

    def __init__(self, inputs, hidden, outputs):
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh()
        )
        self.loc, self.log_scale = nn.Linear(hidden, outputs), nn.Linear(hidden, outputs)

    def forward(self, value):
        features = self.body(value)
        return dist.Normal(self.loc(features), self.log_scale(features).exp()).to_event(1)


class Pair(nn.Module):
    """The paper's model and recognition network, of one or two stochastic layers."""

    def __init__(self, layers, mean):
        super().__init__()
        self.layers, self.top = layers, 50
        first = 50 if layers == 1 else 100
        self.up1 = Gaussian(784, 200, first)
        if layers == 2:
            self.up2 = Gaussian(100, 100, 50)
            self.down2 = Gaussian(50, 100, 100)
        self.down1 = nn.Sequential(
            nn.Linear(first, 200), nn.Tanh(), nn.Linear(200, 200), nn.Tanh(), nn.Linear(200, 784)
        )
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        with torch.no_grad():  # an untrained decoder gives the pixels' means
            self.down1[-1].bias.copy_(torch.logit(mean.clamp(0.001, 0.999)))

    def model(self, x):
        pyro.module("pair", self)
        with pyro.plate("data", len(x)):
            prior = dist.Normal(x.new_zeros(self.top), 1.0).to_event(1)
            if self.layers == 2:
                prior = self.down2(pyro.sample("z2", prior))
            logits = self.down1(pyro.sample("z1", prior))
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("pair", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z1", self.up1(x))
            if self.layers == 2:
                pyro.sample("z2", self.up2(z))


# %% [markdown]
# ## Data and training
#
# Dynamic binarization draws each training image anew for each batch, and the test images once;
# fixed binarization is the file of Larochelle and Murray.


# %%
def load(binarization):
    """Training and test rows: 60,000 and 10,000 flat images, and the mean of the former."""
    if binarization == "dynamic":
        splits = pvae.data.load("mnist")
        grey = splits.train.first(ROWS)[0].flatten(1)
        train = pvae.data.Rows((255 * grey).round().byte(), levels=256, binarize="dynamic")
        test = pvae.data.load("mnist", binarize="static").test
    else:
        splits = pvae.data.load("binarized-mnist")
        grey = torch.cat([s.first(ROWS)[0].flatten(1) for s in (splits.train, splits.valid)])
        train, test = pvae.data.Rows(grey.byte(), levels=2), splits.test
    spread = torch.arange(0, len(test), len(test) // TEST)[:TEST]  # rows may be sorted by digit
    return train, test.arguments(spread)[0].flatten(1), grey.mean(0)


def adam(parameters):
    return torch.optim.Adam(parameters, **({"eps": 1e-4} if options.full else {"lr": 0.002}))


def schedule(optimizer):
    """Multiply the learning rate by 10^(-i/7) for 3^i passes, i = 0, 1, ..., or by a cosine."""
    if not options.full:
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, PASSES)

    def factor(epoch):
        stage = 0
        while epoch >= sum(3**i for i in range(stage + 1)):
            stage += 1
        return 10 ** (-stage / 7)

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def train(binarization, layers, objective, k, seed):
    """Train one entry, or go on with it, and evaluate it."""
    rows, test, mean = DATA[binarization]
    out = RUNS / f"{binarization}-{layers}-{objective}-{k}-seed{seed}"
    torch.manual_seed(seed)
    pair = Pair(layers, mean)
    began = time.perf_counter()
    fit = pvae.fit(
        pair.model, pair.guide, rows, objective=f"{objective}:num_particles={k}",
        optimizer=adam, scheduler=schedule, epochs=PASSES, batch_size=BATCH, seed=seed, out=out,
        resume=(out / "config.json").exists(), progress=False,
    )  # fmt: skip
    likelihood = pvae.log_likelihood(fit.model, fit.guide, test, PARTICLES)
    units = pvae.evaluation.active_units(fit.model, fit.guide, test)
    return {
        "nll": -likelihood.mean,
        "mc_error": likelihood.mc_error,
        "bound": -pvae.elbo(fit.model, fit.guide, test, 10).mean,
        "active_units": {site: found.count for site, found in units.sites.items()},
        "steps": fit.history[-1]["step"],
        "passes": len(fit.history),
        "minutes": (time.perf_counter() - began) / 60,
        "engine": fit.engine,
        "particles": PARTICLES,
        "test_images": len(test),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
    }


ENTRIES = [
    (binarization, layers, objective, k)
    for (binarization, layers, objective), found in PAPER.items()
    for k in found
    if (options.full or (binarization, layers) == ("dynamic", 1))
    and k <= MOST_SAMPLES
    and f"{binarization}-{layers}-{objective}-{k}-".startswith(options.only and f"{options.only}-")
]
DATA = {binarization: load(binarization) for binarization, *_ in ENTRIES}
JSON = Path("paper_iwae.json")
results = json.loads(JSON.read_text()) if JSON.exists() else {}
mine = results.setdefault(FORM, {})
for seed in range(SEEDS):  # the whole table once, then again: error bars come last
    for entry in ENTRIES:
        name = "-".join(map(str, entry))
        if str(seed) in mine.get(name, {}):
            continue
        found = train(*entry, seed)
        mine.setdefault(name, {})[str(seed)] = found
        JSON.write_text(json.dumps(results, indent=2) + "\n")
        print(
            f"{name:<20} seed {seed}: {found['nll']:.2f} +- {found['mc_error']:.2f} nats, bound "
            f"{found['bound']:.2f}, {found['steps']:,} steps, {found['minutes']:.1f} minutes",
            flush=True,
        )

# %% [markdown]
# ## The table
#
# Negative log-likelihood of test images in nats, with the standard deviation over seeds, and the
# number of active units, beside the paper's after all its passes.

# %%
print(f"\n{'':<20}{'nats':>8}{'over seeds':>12}{'active':>9}{'steps':>12}{'paper':>8}")
curves = {}
for (binarization, layers, objective), published in PAPER.items():
    for k, reported in published.items():
        runs = mine.get(f"{binarization}-{layers}-{objective}-{k}", {}).values()
        if not runs:
            continue
        nlls = [run["nll"] for run in runs]
        spread = f"+- {statistics.stdev(nlls):.2f}" if len(nlls) > 1 else ""
        units = "+".join(
            f"{statistics.mean(run['active_units'][site] for run in runs):.0f}"
            for site in ("z1", "z2")[:layers]
        )
        steps = max(run["steps"] for run in runs)
        print(
            f"{binarization}, {layers}, {objective}-{k}".ljust(20)
            + f"{statistics.mean(nlls):>8.2f}{spread:>12}{units:>9}{steps:>12,}{reported:>8.2f}"
        )
        curves.setdefault((binarization, layers), {}).setdefault(objective, {})[k] = nlls

# %%
figure, axes = plt.subplots(
    1, len(curves), figsize=(5 * len(curves), 4), layout="constrained", squeeze=False
)
for ax, ((binarization, layers), found) in zip(axes[0], curves.items(), strict=True):
    single = found.get("elbo", {}).get(1)
    for objective, by_k in found.items():
        if single:
            by_k = {1: single} | by_k
        middle = [statistics.mean(nlls) for nlls in by_k.values()]
        spread = [statistics.stdev(nlls) if len(nlls) > 1 else 0.0 for nlls in by_k.values()]
        ax.errorbar(list(by_k), middle, spread, marker="o", capsize=3, label=objective.upper())
    ax.set(title=f"{binarization} binarization, stochastic layers: {layers}", xscale="log")
    ax.set(xlabel="k samples in training", ylabel="negative log-likelihood, nats")
    ax.set_xticks(list(by_k), labels=list(by_k))
    ax.minorticks_off()
    ax.legend()
figure.savefig(FIGURES / "iwae_1.png", dpi=120)
print("\nnumbers in paper_iwae.json, the figure in figures/iwae_1.png")
