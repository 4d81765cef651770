"""Imputation of tables with holes, beside simpler ways: five masks for each share of hidden cells.

    python tests/benchmarks/tables.py

writes `results/tables_cpu.json` beside this file. The data and masks are read from `$PVAE_DATA`.
Errors are of hidden cells alone, means over the columns of a type, as in HI-VAE (A. Nazabal and
others, 2018): the root mean squared error over the range of the column for numbers, the share of
wrong classes, and the mean difference over the number of ordered classes.
"""

import os
import time
from pathlib import Path

import numpy as np
import torch
from entries import run
from sklearn.impute import KNNImputer, SimpleImputer
from torch import Tensor

import pvae
from pvae.guides import Tabular as TabularGuide
from pvae.models import Tabular

EPOCHS = {"adult": 10, "wine": 60, "breast": 300}
WAYS = ("pvae", "mean or mode", "5 nearest neighbours")


def errors(x: Tensor, filled: Tensor, hidden: Tensor, columns: tuple) -> dict[str, float]:
    """Errors on hidden cells by kind of column, each the mean over its columns."""
    found: dict[str, list[float]] = {}
    for i, column in enumerate(columns):
        at = hidden[:, i] & ~torch.isnan(x[:, i])
        true, guess = x[at, i], filled[at, i]
        if column["kind"] == "cat":
            kind, error = "class", (guess.round() != true).float().mean()
        elif column["kind"] == "ordinal":
            kind, error = "ordered", ((guess - true).abs() / column["classes"]).mean()
        else:
            seen = x[~torch.isnan(x[:, i]), i]
            spread = seen.max() - seen.min()
            kind, error = "number", (guess - true).square().mean().sqrt() / spread
        found.setdefault(kind, []).append(float(error))
    return {kind: sum(values) / len(values) for kind, values in found.items()}


def by_model(x: Tensor, columns: tuple, name: str, seed: int) -> tuple[Tensor, float]:
    """Train a model on a table with holes, and fill them."""
    torch.manual_seed(seed)
    options = {"columns": columns, "z_dim": 10, "hidden": 100, "components": 10}
    model, guide = Tabular(x_shape=(x.shape[1],), **options), TabularGuide(**options)
    fit = pvae.fit(
        model, guide, x, missing="nan", epochs=EPOCHS[name], batch_size=100, seed=seed,
        learning_rate=2e-3, progress=False,
        scheduler=lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, EPOCHS[name]),
    )  # fmt: skip
    found = pvae.impute(fit.model, fit.guide, x, num_samples=30, num_particles=60)
    return found.by_column(columns), found.ess.mean().item()


def by_neighbours(x: Tensor, columns: tuple) -> Tensor:
    """Means of the five nearest rows, in units of each column; of classes the nearest one."""
    scale = torch.tensor([max(np.nanstd(c), 1e-6) for c in x.T.numpy()])
    filled = KNNImputer(n_neighbors=5).fit_transform((x / scale).numpy()) if len(x) < 9000 else None
    if filled is None:  # distances of all rows to all are too many: those to some
        imputer = KNNImputer(n_neighbors=5).fit((x / scale)[:2000].numpy())
        filled = imputer.transform((x / scale).numpy())
    return torch.as_tensor(filled, dtype=x.dtype) * scale


def simple(x: Tensor, columns: tuple) -> Tensor:
    """The mean of each column of numbers, and the most frequent class."""
    parts = []
    for i, column in enumerate(columns):
        how = "most_frequent" if column["kind"] in ("cat", "ordinal") else "mean"
        parts.append(SimpleImputer(strategy=how).fit_transform(x[:, i : i + 1].numpy()))
    return torch.as_tensor(np.concatenate(parts, 1), dtype=x.dtype)


def train(name: str, share: int, seed: int) -> dict[str, object]:
    """Errors of every way on five masks."""
    splits = pvae.data.load(name, missing="nan")
    archive = np.load(Path(os.environ["PVAE_DATA"]) / f"tables/{name}.npz")
    x = torch.as_tensor(archive["data"])
    masks = np.unpackbits(archive[f"missing_{share}"], axis=2, count=x.shape[1]).astype(bool)
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    sizes, began, training = [], time.perf_counter(), 0.0
    for mask in torch.as_tensor(masks):
        holes = x.masked_fill(mask, float("nan"))
        before = time.perf_counter()
        filled, ess = by_model(holes, splits.columns, name, seed)
        training += time.perf_counter() - before
        sizes.append(ess)
        for way, values in (
            ("pvae", filled),
            ("mean or mode", simple(holes, splits.columns)),
            ("5 nearest neighbours", by_neighbours(holes, splits.columns)),
        ):
            found[way].append(errors(x, values, mask, splits.columns))
    kinds = found["pvae"][0]
    summary = {
        way: {kind: _spread([f[kind] for f in of]) for kind in kinds} for way, of in found.items()
    }
    return {
        "table": name, "hidden_percent": share, "errors": summary, "masks": len(masks),
        "ess": sizes, "epochs": EPOCHS[name], "training_seconds": training,
        "seconds": time.perf_counter() - began,
    }  # fmt: skip


def _spread(values: list[float]) -> dict[str, float]:
    return {"mean": float(np.mean(values)), "std": float(np.std(values))}


def row(entry: dict) -> str:
    """A row of the table."""
    cells = [f"{entry['table']}, {entry['hidden_percent']} %"]
    for kind in ("number", "class", "ordered"):
        for way in WAYS:
            found = entry["errors"][way].get(kind)
            cells.append(f"{found['mean']:.3f}" if found else "")
    return f"| {' | '.join(cells)} |".replace("|  |", "| |").replace("|  |", "| |")


def _entry(name: str, share: int):
    return lambda seed: train(name, share, seed)


ENTRIES = {
    f"{name}-{share}": _entry(name, share)
    for name in ("breast", "wine", "adult")
    for share in (10, 20, 30, 40, 50)
}

if __name__ == "__main__":
    run("tables", ENTRIES)
