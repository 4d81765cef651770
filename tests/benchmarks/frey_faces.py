"""Frey Face: test bounds by the number of latent dimensions, as in figure 2 of the AEVB paper.

    python tests/benchmarks/frey_faces.py

writes `results/frey_faces_cpu.json` beside this file. The data are read from `$PVAE_DATA`. As in
the paper the decoder is Gaussian, with 200 hidden units; here the frames of training, validation
and
test are drawn at random, and numbers are nats per frame of the test set, grey values in [0, 1].
"""

import time

import torch
from entries import run

import pvae
from pvae.guides import MeanField
from pvae.models import VAE

EPOCHS = 1000


def train(z_dim: int, seed: int) -> dict[str, object]:
    """Train a VAE and evaluate it."""
    splits = pvae.data.load("frey-faces")
    x = torch.cat([split.first(2000)[0] for split in (splits.train, splits.valid, splits.test)])
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]
    parts = x[:1565], x[1565:1765], x[1765:]
    torch.manual_seed(seed)
    sizes = {"x_shape": (28, 20), "z_dim": z_dim, "hidden": 200}
    model = VAE(**sizes, likelihood="gaussian_pixel_scale")
    guide = MeanField(**sizes)
    began = time.perf_counter()
    fit = pvae.fit(
        model, guide, parts[0], valid=parts[1], epochs=EPOCHS, batch_size=100, patience=100,
        seed=seed, progress=False,
        optimizer=lambda p: torch.optim.AdamW(p, lr=5e-4, weight_decay=0.02, fused=True),
    )  # fmt: skip
    seconds = time.perf_counter() - began
    train_bound, bound = (
        pvae.elbo(fit.model, fit.guide, part, 10) for part in (parts[0], parts[2])
    )
    likelihood = pvae.log_likelihood(fit.model, fit.guide, parts[2], 5000)
    return {
        "z_dim": z_dim, "train_bound": train_bound.mean, "bound": bound.mean,
        "std_error": bound.std_error, "log_likelihood": likelihood.mean,
        "epochs": len(fit.history), "training_seconds": seconds, "engine": fit.engine,
        "notes": fit.notes,
    }  # fmt: skip


def row(entry: dict[str, object]) -> str:
    """A row of the table."""
    minutes = float(str(entry["training_seconds"])) / 60
    return (
        f"| {entry['z_dim']} | {entry['train_bound']:.0f} | {entry['bound']:.0f} ± "
        f"{entry['std_error']:.0f} | {entry['log_likelihood']:.0f} | {minutes:.1f} |"
    )


def _entry(z_dim: int):
    return lambda seed: train(z_dim, seed)


ENTRIES = {str(z_dim): _entry(z_dim) for z_dim in (2, 5, 10, 20)}

if __name__ == "__main__":
    run("frey_faces", ENTRIES)
