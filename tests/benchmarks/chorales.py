"""The deep Markov model on JSB chorales, with and without flows in the guide.

    python tests/benchmarks/chorales.py

writes `results/chorales_cpu.json` beside this file. The data are read from `$PVAE_DATA`. Numbers
are nats per time step of the 77 test chorales: the negative one-sample bound, as in the tutorial
of Pyro, and -log p(x) by importance sampling, which is far from tight for sequences of 60 steps.
Chorales of similar lengths are batched together, so that few steps are padding.
"""

import time
from collections.abc import Iterator
from itertools import pairwise

import torch
from entries import run
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

import pvae
from pvae.guides import Combiner
from pvae.models import DMM

EPOCHS = {"gaussian": 2500, "flow": 800}
WARMUP = 400
BATCH, LENGTHS = 20, (48, 64, 80)  # chorales of a batch; steps of all but the longest
PUBLISHED = {"gaussian": 6.87, "flow": 6.80}  # Pyro's tutorial, 5,000 epochs; 0 and 2 IAF layers


class ByLength(IterableDataset):
    """Batches of chorales of a similar length, in a random order."""

    def __init__(self, x: Tensor, lengths: Tensor, seed: int) -> None:
        self.x, self.lengths = x, lengths
        self.generator = torch.Generator().manual_seed(seed)
        bounds = (0, *LENGTHS, x.shape[1])
        self.groups = [
            (((lengths > low) & (lengths <= high)).nonzero()[:, 0], high)
            for low, high in pairwise(bounds)
        ]

    def __len__(self) -> int:
        return sum(-(-len(rows) // BATCH) for rows, _ in self.groups)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        batches = []
        for rows, steps in self.groups:
            order = torch.randperm(len(rows), generator=self.generator)
            batches += [(part, steps) for part in rows[order].split(BATCH)]
        for i in torch.randperm(len(batches), generator=self.generator):
            rows, steps = batches[i]
            yield self.x[rows, :steps], self.lengths[rows]


def train(transforms: int, seed: int) -> dict[str, object]:
    """Train a deep Markov model and evaluate it."""
    splits = pvae.data.load("jsb-chorales")
    x, lengths = splits.train.first(len(splits.train))
    longest = int(lengths.max())
    torch.manual_seed(seed)
    sizes = {"x_shape": (longest, 88), "z_dim": 64}
    model = DMM(**sizes)
    guide = Combiner(**sizes, rnn=200, transforms=transforms, dropout=0.1)
    epochs = EPOCHS["flow" if transforms else "gaussian"]
    chorales = DataLoader(ByLength(x[:, :longest], lengths, seed), batch_size=None)
    began = time.perf_counter()
    fit = pvae.fit(
        model, guide, chorales, epochs=epochs, data_size=len(x), seed=seed,
        objective=f"elbo:warmup={WARMUP}", clip_norm=10.0, progress=False,
        optimizer=lambda p: torch.optim.AdamW(p, lr=3e-3, weight_decay=0.03, fused=True),
        scheduler=lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, epochs),
    )  # fmt: skip
    seconds = time.perf_counter() - began
    found = {}
    for split in ("train", "valid", "test"):
        rows = getattr(splits, split)
        steps = rows.first(len(rows))[1].sum().item()
        bound = pvae.elbo(fit.model, fit.guide, rows, 1)
        found[f"{split}_bound"] = -bound.mean * len(rows) / steps
    likelihood = pvae.log_likelihood(fit.model, fit.guide, rows, 1000)
    found["negative_log_likelihood"] = -likelihood.mean * len(rows) / steps
    return {
        "transforms": transforms, **found, "num_particles": 1000, "epochs": epochs,
        "training_seconds": seconds, "engine": fit.engine, "notes": fit.notes,
        "published": PUBLISHED["flow" if transforms else "gaussian"],
    }  # fmt: skip


def row(entry: dict[str, object]) -> str:
    """A row of the table."""
    minutes = float(str(entry["training_seconds"])) / 60
    return (
        f"| {entry['transforms']} | {entry['test_bound']:.2f} | "
        f"{entry['negative_log_likelihood']:.2f} | {entry['published']:.2f} | {minutes:.0f} |"
    )


ENTRIES = {"gaussian": lambda seed: train(0, seed), "flow": lambda seed: train(2, seed)}

if __name__ == "__main__":
    run("chorales", ENTRIES)
