"""Static binarized MNIST: minutes of training to a test likelihood, with pairs of the zoo.

    python tests/benchmarks/time_to_nll.py

writes `results/time_to_nll_cpu.json` beside this file. Each target has a pair and a number of
epochs, and the clock counts what `fit` takes, from programs to the trained pair, on one core. The
test images are used once, after the training: -log p(x) in nats per image by 5,000 importance
samples, of all 10,000. The data are read from `$PVAE_DATA`.
"""

import time
from dataclasses import asdict, dataclass

import torch
from entries import run

import pvae

PARTICLES = 5000


@dataclass(frozen=True)
class Setting:
    """A pair of the zoo and its training."""

    epochs: int
    prior: str = "flow"
    z_dim: int = 40
    hidden: tuple[int, ...] = (300, 300)
    objective: str = "elbo"
    learning_rate: float = 1e-3
    batch_size: int = 100
    warmup: int = 5


TARGETS = {
    92: Setting(epochs=15, learning_rate=2e-3, warmup=3),
    90: Setting(epochs=25, learning_rate=2e-3, warmup=3),
    88: Setting(epochs=30, objective="dreg:num_particles=5"),
    87: Setting(epochs=60, objective="dreg:num_particles=5"),
}


def train(target: float, setting: Setting, seed: int) -> dict[str, object]:
    """Train a pair and evaluate it on the test images."""
    splits = pvae.data.load("binarized-mnist")
    sizes = {"z_dim": setting.z_dim, "hidden": setting.hidden}
    torch.manual_seed(seed)
    began = time.perf_counter()
    model = pvae.models.VAE(prior=setting.prior, **sizes)
    guide = pvae.guides.MeanField(**sizes)
    fit = pvae.fit(
        model, guide, splits.train, objective=setting.objective, epochs=setting.epochs,
        batch_size=setting.batch_size, learning_rate=setting.learning_rate, warmup=setting.warmup,
        scheduler=lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, setting.epochs),
        seed=seed, progress=False,
    )  # fmt: skip
    seconds = time.perf_counter() - began
    likelihood = pvae.log_likelihood(fit.model, fit.guide, splits.test, PARTICLES)
    return {
        "target": target, "reached": -likelihood.mean <= target, **asdict(setting),
        "training_seconds": seconds, "steps": fit.history[-1]["step"],
        "negative_log_likelihood": -likelihood.mean, "mc_error": likelihood.mc_error,
        "num_particles": PARTICLES, "engine": fit.engine, "notes": fit.notes,
    }  # fmt: skip


def row(entry: dict[str, object]) -> str:
    """A row of the table."""
    minutes = float(str(entry["training_seconds"])) / 60
    reached = "" if entry["reached"] else " (not reached)"
    return (
        f"| {entry['target']}{reached} | {entry['negative_log_likelihood']:.2f} | {minutes:.1f} | "
        f"{entry['prior']} | {entry['objective']} | {entry['epochs']} |"
    )


def _entry(target: int):
    return lambda seed: train(target, TARGETS[target], seed)


if __name__ == "__main__":
    run("time_to_nll", {str(target): _entry(target) for target in TARGETS})
