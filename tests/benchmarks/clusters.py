"""Clusters of MNIST without labels: a mixture VAE, and the accuracy of its classes.

    python tests/benchmarks/clusters.py

writes `results/clusters_cpu.json` beside this file. The data are read from `$PVAE_DATA`. Accuracy
is that of the most probable class on the 10,000 test images, after the best one-to-one assignment
of ten classes to ten digits; labels have no other use. Four stages make an entry:

1. a VAE is trained with beta 0.3;
2. k-means clusters 10,000 codes in a t-SNE embedding; the other codes take the class of the
   nearest fifteen;
3. the mixture VAE learns these classes, as if they were observed;
4. the mixture VAE is trained by its bound, with the class enumerated.
"""

import time
from collections.abc import Iterator

import pyro
import pyro.distributions as dist
import torch
from entries import run
from semi_supervised import shifted
from sklearn.cluster import KMeans
from sklearn.manifold import TSNE
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, IterableDataset

import pvae
from pvae.guides import Clusters, MeanField
from pvae.models import GMVAE, VAE
from pvae.nn import positive

SIZES = {"z_dim": 10, "hidden": (500, 500, 1000)}
EPOCHS = {"vae": 15, "classes": 4, "mixture": 4}
BATCH, EMBEDDED, NEAREST = 250, 10_000, 15
TEACHING = 50.0  # weight of log q(y | x) while the classes are learned


class Images(IterableDataset):
    """Batches of images, moved at random and binarized, with what belongs to them."""

    def __init__(self, x: Tensor, *others: Tensor, seed: int) -> None:
        self.x, self.others = x, others
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return len(self.x) // BATCH

    def __iter__(self) -> Iterator[Tensor | tuple[Tensor, ...]]:
        for rows in torch.randperm(len(self.x), generator=self.generator).split(BATCH):
            x = shifted(self.x[rows], self.generator, 0.5)
            x = torch.bernoulli(x, generator=self.generator)
            yield (x, *(other[rows] for other in self.others)) if self.others else x


class Observed(nn.Module):
    """The mixture VAE, with the class of each datum observed."""

    def __init__(self, model: GMVAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return pyro.condition(self.model, data={"y": y})(x)


class Taught(nn.Module):
    """q(z | x) of `Clusters`, with a reward for codes that lie where their class does."""

    def __init__(self, guide: Clusters, model: GMVAE) -> None:
        super().__init__()
        self.guide, self._model = guide, (model,)

    def forward(self, x: Tensor, y: Tensor) -> None:
        pyro.module("guide", self)
        with pyro.plate("data", len(x)):
            loc, raw = self.guide.encoder(x).chunk(2, -1)
            z = pyro.sample("z", dist.Normal(loc, positive(raw)).to_event(1))
            classes, codes = self._model[0].mixture()
            logits = classes.logits + codes.log_prob(z[..., None, :])
            known = dist.Categorical(logits=logits).log_prob(y)
            pyro.factor("teaching", -TEACHING * known, has_rsample=True)


def embedded_clusters(codes: Tensor, seed: int) -> Tensor:
    """A class of each code: k-means in a t-SNE embedding of some, and their neighbours."""
    some = codes[:EMBEDDED].numpy()
    embedding = TSNE(2, init="pca", random_state=seed).fit_transform(some)
    clusters = KMeans(10, n_init=10, random_state=seed).fit_predict(embedding)
    nearest = KNeighborsClassifier(NEAREST).fit(some, clusters)
    return torch.as_tensor(nearest.predict(codes.numpy()), dtype=torch.int64)


def train(seed: int) -> dict[str, object]:
    """Cluster the digits, and measure the accuracy after each stage."""
    splits = pvae.data.load("mnist", valid=10_000)
    x = splits.train.first(len(splits.train))[0]
    torch.manual_seed(seed)
    vae, encoder = VAE(**SIZES), MeanField(**SIZES)
    began = time.perf_counter()

    def fit(model: nn.Module, guide: nn.Module, stage: str, *others: Tensor, objective: str):
        epochs, rate = EPOCHS[stage], 1e-3 if stage == "vae" else 5e-4
        return pvae.fit(
            model, guide, DataLoader(Images(x, *others, seed=seed), batch_size=None),
            objective=objective, epochs=epochs, data_size=len(x), seed=seed, progress=False,
            optimizer=lambda p: torch.optim.Adam(p, lr=rate, fused=True),
            scheduler=None if stage == "classes" else lambda o: CosineAnnealingLR(o, epochs),
        )  # fmt: skip

    fits = {"vae": fit(vae, encoder, "vae", objective="elbo:beta=0.3")}
    codes = pvae.infer(encoder, splits.train)["z"]
    clusters = embedded_clusters(codes, seed)
    model = GMVAE(**SIZES)
    guide = Clusters(model, **SIZES)
    model.decoder.load_state_dict(vae.decoder.state_dict())
    guide.encoder.load_state_dict(encoder.encoder.state_dict())
    found: dict[str, float] = {}

    def measure(stage: str) -> None:
        found[stage] = 100 * pvae.evaluation.class_accuracy(model, guide, splits.test).matched
        print(seed, stage, found[stage], round(time.perf_counter() - began), flush=True)

    model.start_at(codes)
    measure("mixture of Gaussians")
    model.start_at(codes, clusters)
    measure("t-SNE")
    fits["classes"] = fit(
        Observed(model), Taught(guide, model), "classes", clusters, objective="elbo"
    )
    measure("classes")
    fits["mixture"] = fit(model, guide, "mixture", objective="TraceEnum_ELBO")
    measure("mixture")
    return {
        "seed": seed, "accuracy": found["mixture"], "accuracy_after": found, "epochs": EPOCHS,
        "training_seconds": time.perf_counter() - began,
        "engines": {stage: of.engine for stage, of in fits.items()},
        "notes": [note for of in fits.values() for note in of.notes],
    }  # fmt: skip


def row(entry: dict) -> str:
    """A row of the table."""
    after = entry["accuracy_after"]
    cells = [
        entry["seed"],
        *(f"{after[stage]:.1f}" for stage in after),
        f"{entry['training_seconds'] / 60:.0f}",
    ]
    return f"| {' | '.join(map(str, cells))} |"


def _entry(number: int):
    return lambda seed: train(seed + number)


ENTRIES = {f"seed-{number}": _entry(number) for number in range(3)}

if __name__ == "__main__":
    run("clusters", ENTRIES)
