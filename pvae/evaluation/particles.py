"""Many draws from the guide per datum: the data plate is tiled, batch by batch."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from pvae.data import Rows, rows
from pvae.modes import evaluating
from pvae.modules import belongings_of
from pvae.objectives.weights import DataPlate, data_plate, terms
from pvae.randomness import seeded
from pvae.traces import paired_traces

__all__ = ["BUDGET", "Block", "blocks", "counts", "rows_per_call", "tiled"]

# Numbers of x that one call of the pair sees at most; networks hold a few copies of as many.
BUDGET = 2**21


@dataclass(frozen=True)
class Block:
    """Log-weight terms of some rows and particles.

    Attributes:
        start: index of the first row in the data.
        local: by site, shape (particles, rows), in nats.
        shared: by global site, in nats per data set; one draw for the whole block.
    """

    start: int
    local: dict[str, Tensor]
    shared: dict[str, float]

    @property
    def log_weights(self) -> Tensor:
        """log p(x, z) - log q(z | x) without global terms, shape (particles, rows)."""
        return torch.stack(tuple(self.local.values())).sum(0)


def blocks(
    model: Callable[..., object],
    guide: Callable[..., object],
    data: object,
    num_particles: int,
    *,
    seed: int,
    progress: str = "",
) -> Iterator[Block]:
    """Go through data and particles in blocks that fit into memory, without gradients.

    Args:
        model: p(x, z).
        guide: q(z | x).
        data: a tensor of shape (N, ...), a tuple of such, or a split of a data set.
        num_particles: draws from the guide per datum, at least 1.
        seed: seeds the draws; the generators outside are left as they are.
        progress: what the progress bar says; none where it is empty.

    Raises:
        ValueError: fewer than one particle, or a data plate that subsamples by itself.
    """
    if num_particles < 1:
        raise ValueError(f"num_particles is {num_particles}: give at least 1")
    known = belongings_of(model, guide)
    source = rows(data)
    source = source.to(known.device) if known is not None else source
    with seeded(seed), torch.no_grad(), evaluating(model, guide):
        head = source.first(2)
        plate = data_plate(lambda batch: paired_traces(model, guide, batch), head)
        limit = rows_per_call(source, plate)
        bar = tqdm(
            total=len(source),
            desc=progress,
            unit="rows",
            disable=None if progress else True,
            leave=False,
        )
        for start in range(0, len(source), _width(limit, num_particles)):
            stop = min(start + _width(limit, num_particles), len(source))
            batch = source.arguments(slice(start, stop))
            for count in counts(num_particles, max(1, limit // (stop - start))):
                yield _block(model, guide, batch, count, start, plate)
            bar.update(stop - start)
        bar.close()


def rows_per_call(source: Rows, plate: DataPlate | None, budget: int = BUDGET) -> int:
    """How many rows a batch may have.

    Args:
        source: the data.
        plate: the data plate.
        budget: numbers of x in a batch.
    """
    if plate is None or not plate.vectorized:
        return 1  # rows may depend on each other: one at a time is always right
    per_row = max(1, sum(part[0].numel() for part in source.first(1)))
    limit = max(1, budget // per_row)
    sized_to_data = plate.full_size != plate.rows
    return min(limit, plate.full_size) if sized_to_data else limit


def _width(limit: int, num_particles: int) -> int:
    """Rows of data in one batch: as many as leave room for all particles, or for some."""
    return max(1, limit // num_particles)


def counts(total: int, most: int) -> Iterator[int]:
    """Parts of a total, each as large as can be."""
    while total > 0:
        yield min(total, most)
        total -= most


def tiled(batch: tuple[Tensor, ...], count: int) -> tuple[Tensor, ...]:
    """A batch repeated as a whole: row r of particle k is row k * rows + r."""
    return tuple(part.repeat(count, *(1,) * (part.dim() - 1)) for part in batch)


def _block(
    model: Callable[..., object],
    guide: Callable[..., object],
    batch: tuple[Tensor, ...],
    count: int,
    start: int,
    plate: DataPlate | None,
) -> Block:
    width = len(batch[0])
    local, shared = terms(*paired_traces(model, guide, tiled(batch, count)), plate)
    if plate is None:
        return Block(start, {site: value.reshape(1, 1) for site, value in shared.items()}, {})
    for site, value in local.items():
        if len(value) != count * width:
            raise ValueError(
                f"site {site!r} has {len(value)} rows in plate {plate.name!r} for a batch of "
                f"{count * width}: a plate that subsamples by itself cannot be evaluated datum by "
                "datum; pass the subsample as the batch"
            )
    by_site = {site: value.reshape(count, width) for site, value in local.items()}
    return Block(start, by_site, {site: value.item() for site, value in shared.items()})
