"""Conditional VAEs on MNIST: the rest of an image given one, two or three quadrants.

    python tests/benchmarks/quadrants.py

writes `results/quadrants_cpu.json` beside this file. The data are read from `$PVAE_DATA`. As in the
tutorial of Pyro, grey values are observed under a Bernoulli likelihood, which has no such values in
its support: numbers are of the hidden pixels, in nats per image of the test set.
"""

import time

import pyro
import pyro.distributions as dist
import torch
from entries import run
from pyro.distributions import TorchDistribution
from torch import Tensor

import pvae
from pvae.guides import Conditional
from pvae.likelihoods import Likelihood
from pvae.models import CVAE

EPOCHS, PARTICLES = 30, 5000
PUBLISHED = {"1": 71.8, "2": 51.0, "3": 24.2}  # Pyro's tutorial, negative bounds


class GreyBernoulli(Likelihood):
    """The cross-entropy of grey values in [0, 1], as if they were probabilities of ink."""

    def distribution(self, output: Tensor) -> TorchDistribution:
        """Return the distribution of each pixel."""
        (logits,) = self._unbind(output)
        return dist.Bernoulli(logits=logits, validate_args=False)


def train(quadrants: int, seed: int) -> dict[str, object]:
    """Train a CVAE given some quadrants, and evaluate it."""
    splits = pvae.data.load("mnist", valid=10_000)
    torch.manual_seed(seed)
    sizes = {"z_dim": 50, "hidden": (500, 500)}
    model = CVAE(**sizes, quadrants=quadrants, likelihood=GreyBernoulli)
    guide = Conditional(**sizes)
    began = time.perf_counter()
    fit = pvae.fit(
        model, guide, splits, epochs=EPOCHS, batch_size=200, seed=seed, patience=6, progress=False,
        optimizer=lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=0.02, fused=True),
        scheduler=lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, EPOCHS),
    )  # fmt: skip
    seconds = time.perf_counter() - began
    with pyro.validation_enabled(False):
        bound = pvae.elbo(fit.model, fit.guide, splits.test, 10)
        some = splits.test[torch.arange(0, 10_000, 20)]
        likelihood = pvae.log_likelihood(fit.model, fit.guide, some, PARTICLES)
    return {
        "quadrants": quadrants, "negative_bound": -bound.mean, "std_error": bound.std_error,
        "negative_log_likelihood": -likelihood.mean, "images_of_log_likelihood": len(some),
        "num_particles": PARTICLES, "epochs": len(fit.history), "training_seconds": seconds,
        "engine": fit.engine, "notes": fit.notes, "published": PUBLISHED[str(quadrants)],
    }  # fmt: skip


def row(entry: dict[str, object]) -> str:
    """A row of the table."""
    minutes = float(str(entry["training_seconds"])) / 60
    return (
        f"| {entry['quadrants']} | {entry['negative_bound']:.1f} | "
        f"{entry['negative_log_likelihood']:.1f} | {entry['published']} | {minutes:.0f} |"
    )


def _entry(quadrants: int):
    return lambda seed: train(quadrants, seed)


ENTRIES = {str(quadrants): _entry(quadrants) for quadrants in (1, 2, 3)}

if __name__ == "__main__":
    run("quadrants", ENTRIES)
