"""The semi-supervised model M2 on MNIST with few labels, beside published results.

    python tests/benchmarks/semi_supervised.py

writes `results/semi_supervised_cpu.json` beside this file; `--only 100` retrains one entry. The
data are read from `$PVAE_DATA`. Accuracy is that of q(y | x) on the 10,000 test images; the labels
are
chosen by the seed, balanced by class, from the first 50,000 training images.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample
from torch.utils.data import DataLoader, IterableDataset

import pvae
from pvae.cli.bench import machine

RESULTS = Path(__file__).parent / "results" / "semi_supervised_cpu.json"
PUBLISHED = {100: 93.2, 600: 94.4, 1000: 94.9, 3000: 95.8}  # Pyro's tutorial, auxiliary loss
UNLABELLED, LABELLED = 200, 50  # rows of a batch


def shifted(x: Tensor, generator: torch.Generator, strength: float = 1.0) -> Tensor:
    """Images `(rows, 28, 28)` after a random rotation, scaling, shear and shift of each."""

    def uniform(*shape: int) -> Tensor:
        return (torch.rand(*shape, generator=generator) * 2 - 1) * strength

    rows = len(x)
    angle, scale, shear = 0.26 * uniform(rows), 1 + 0.15 * uniform(rows), 0.2 * uniform(rows)
    maps = torch.zeros(rows, 2, 3)
    maps[:, 0, 0], maps[:, 0, 1] = scale * angle.cos(), shear - scale * angle.sin()
    maps[:, 1, 0], maps[:, 1, 1] = scale * angle.sin(), scale * angle.cos()
    maps[:, :, 2] = 0.15 * uniform(rows, 2)
    grid = affine_grid(maps, [rows, 1, 28, 28], align_corners=False)
    return grid_sample(x[:, None], grid, align_corners=False)[:, 0].clamp(0, 1)


class Batches(IterableDataset):
    """Binarized images with labels: unlabelled ones, and labelled ones drawn with replacement."""

    def __init__(self, x: Tensor, y: Tensor, seed: int) -> None:
        self.x, self.y = x, y
        self.known = (y >= 0).nonzero().flatten()
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return len(self.x)

    def __iter__(self):
        generator = self.generator
        for part in torch.randperm(len(self.x), generator=generator).split(UNLABELLED):
            drawn = torch.randint(len(self.known), (LABELLED,), generator=generator)
            index = torch.cat([part, self.known[drawn]])
            y = self.y[index].clone()
            y[: len(part)] = -1
            x = shifted(self.x[index], generator)
            yield torch.bernoulli(x, generator=generator), y


def train(labels: int, *, epochs: int, seed: int) -> dict[str, object]:
    """Train M2 with some labels, and measure its accuracy."""
    splits = pvae.data.load("mnist", labels=labels, valid=10_000, seed=seed)
    x, y = splits.train.first(len(splits.train))
    source = DataLoader(Batches(x, y, seed), batch_size=None)
    torch.manual_seed(seed)
    model = pvae.models.SSVAE(z_dim=20, hidden=500)
    guide = pvae.guides.Classifier(z_dim=20, hidden=(500, 500), auxiliary=50.0)
    guide.classifier = nn.Sequential(
        nn.Unflatten(1, (1, 28)),
        nn.Conv2d(1, 32, 5, stride=2, padding=2), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
        nn.Flatten(), nn.Dropout(0.5), nn.Linear(64 * 49, 10),
    )  # fmt: skip
    history: list[float] = []

    def accuracy(_: object = None) -> float:
        images = splits.test.first(len(splits.test))[0]
        training = guide.training
        guide.eval()
        with torch.no_grad():
            guessed = guide.classifier(images).argmax(-1)
        guide.train(training)
        return 100 * (guessed == splits.test.labels).float().mean().item()

    def note(fit: pvae.Fit) -> None:
        history.append(accuracy())
        print(f"{labels}: epoch {len(history)}, accuracy {history[-1]:.2f}", flush=True)

    began = time.perf_counter()
    fit = pvae.fit(
        model, guide, source, epochs=epochs, data_size=len(x), seed=seed, progress=False,
        optimizer=lambda p: torch.optim.Adam(p, lr=1e-3, fused=True), callback=note,
        scheduler=lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, epochs),
    )  # fmt: skip
    return {
        "labels": labels, "accuracy": accuracy(), "published": PUBLISHED[labels], "seed": seed,
        "epochs": epochs, "batch": {"unlabelled": UNLABELLED, "labelled": LABELLED},
        "auxiliary": 50.0, "z_dim": 20, "training_seconds": time.perf_counter() - began,
        "engine": fit.engine, "notes": fit.notes, "hardware": machine(torch.device("cpu")),
    }  # fmt: skip


def row(entry: dict[str, object]) -> str:
    """A row of the table."""
    minutes = float(str(entry["training_seconds"])) / 60
    cells = [f"{entry['labels']:,}", f"{entry['accuracy']:.1f}", f"{entry['published']}"]
    return f"| {' | '.join([*cells, str(entry['epochs']), f'{minutes:.0f}'])} |"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", type=int)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    command = "python tests/benchmarks/semi_supervised.py"
    known = json.loads(RESULTS.read_text())["entries"] if RESULTS.exists() else {}
    for labels in PUBLISHED if asked.only is None else [asked.only]:
        known[str(labels)] = train(labels, epochs=asked.epochs, seed=asked.seed)
        RESULTS.write_text(json.dumps({"command": command, "entries": known}, indent=2) + "\n")


if __name__ == "__main__":
    main()
