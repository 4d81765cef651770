"""Static binarized MNIST: priors and guides of one VAE, trained equally long.

    python tests/benchmarks/priors.py

writes `results/priors_cpu.json` beside this file. The data are read from `$PVAE_DATA`. Numbers are
nats per datum of the 10,000 test images; -log p(x) is by importance sampling.
"""

import time

import torch
from entries import run

import pvae
from pvae.guides import Flow, MeanField
from pvae.models import VAE
from pvae.priors import Vamp

SIZES = {"z_dim": 40, "hidden": (300, 300)}
EPOCHS, PARTICLES = 40, 5000


def train(prior: str, guide_kind: str, seed: int) -> dict[str, object]:
    """Train a VAE and evaluate it."""
    splits = pvae.data.load("binarized-mnist")
    torch.manual_seed(seed)
    guide = Flow(**SIZES, transforms=2, flow_hidden=(100,)) if guide_kind == "iaf" else None
    guide = MeanField(**SIZES) if guide is None else guide
    of_model: object = prior
    if prior == "vamp":
        of_model = Vamp(40, components=500, network=guide.encoder)
        of_model.start_at(splits.train.first(5000)[0])
    model = VAE(**SIZES, prior=of_model)
    began = time.perf_counter()
    fit = pvae.fit(
        model, guide, splits, epochs=EPOCHS, batch_size=100, learning_rate=1e-3, warmup=5,
        scheduler=lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, EPOCHS), seed=seed,
        progress=False,
    )  # fmt: skip
    seconds = time.perf_counter() - began
    bound = pvae.elbo(fit.model, fit.guide, splits.test, 10)
    likelihood = pvae.log_likelihood(fit.model, fit.guide, splits.test, PARTICLES)
    return {
        "prior": prior, "guide": guide_kind, "negative_bound": -bound.mean,
        "negative_log_likelihood": -likelihood.mean, "mc_error": likelihood.mc_error,
        "num_particles": PARTICLES, "epochs": EPOCHS, "training_seconds": seconds,
        "engine": fit.engine, "notes": fit.notes,
    }  # fmt: skip


PUBLISHED = {"vamp-mean_field": 85.57}


def row(name: str, entry: dict[str, object]) -> str:
    """A row of the table."""
    minutes = float(str(entry["training_seconds"])) / 60
    return (
        f"| {entry['prior']} | {entry['guide']} | {entry['negative_bound']:.2f} | "
        f"{entry['negative_log_likelihood']:.2f} | {minutes:.0f} | {PUBLISHED.get(name, '')} |"
    )


def _entry(prior: str, guide: str):
    return lambda seed: train(prior, guide, seed)


ENTRIES = {
    f"{prior}-{guide}": _entry(prior, guide)
    for prior, guide in (
        ("standard", "mean_field"),
        ("standard", "iaf"),
        ("vamp", "mean_field"),
        ("flow", "mean_field"),
    )
}

if __name__ == "__main__":
    run("priors", ENTRIES)
