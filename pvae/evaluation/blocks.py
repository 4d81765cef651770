"""Many draws from the guide per datum: the data plate is tiled, batch by batch."""

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import pyro
import torch
from torch import Tensor
from tqdm import tqdm

from pvae.checking.failures import OF_PROGRAMS
from pvae.data import Rows
from pvae.evaluation.compiled import Replayed
from pvae.evaluation.draws import Draws, draws_at_once, tiled_draws
from pvae.evaluation.estimate import UndefinedError
from pvae.evaluation.memory import allowed, peak_bytes
from pvae.pair.independence import moved_by_neighbours
from pvae.pair.log_prob import DataPlate, data_plate, terms
from pvae.pair.modes import evaluating
from pvae.pair.preserve import preserved, seeded
from pvae.pair.sources import source_for
from pvae.pair.traces import paired_traces

__all__ = ["Block", "blocks", "plan", "plate_of_rows", "refuse_neighbours", "rows_per_call"]


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
    budget: int | None = None,
    progress: str = "",
) -> Iterator[Block]:
    """Go through data and particles in blocks that fit into memory, without gradients.

    Args:
        model: p(x, z).
        guide: q(z | x).
        data: a tensor of shape (N, ...), a tuple of such, or a split of a data set.
        num_particles: draws from the guide per datum, at least 1.
        seed: seeds the draws; the generators outside are left as they are.
        budget: bytes that the tensors of one block may take; one row and particle at the least.
        progress: what the progress bar says; none where it is empty.

    Raises:
        ValueError: fewer than one particle, or a data plate that subsamples by itself.
        UndefinedError: data of one batch depend on each other, or cannot be taken apart.
    """
    if num_particles < 1:
        raise ValueError(f"num_particles is {num_particles}: give at least 1")
    source = source_for(data, model, guide)
    with seeded(seed), torch.no_grad(), evaluating(model, guide):
        head = source.first(2)
        plate = plate_of_rows(model, guide, head)
        refuse_neighbours(model, guide, plate, source)
        draw = _way_to_draw(model, guide, source, plate, num_particles)
        limit = rows_per_call(draw, source, plate, budget)
        planned = plan(len(source), num_particles, limit)
        shapes = ((where.stop - where.start, count) for where, count in planned)
        replayed = Replayed(draw, shapes)
        bar = tqdm(
            total=len(source),
            desc=progress,
            unit="rows",
            disable=None if progress else True,
            leave=False,
        )
        here, batch = slice(0, 0), head
        for where, count in planned:
            if where != here:
                bar.update(here.stop - here.start)
                here, batch = where, source.arguments(where)
                if count > 1:
                    with preserved():
                        draw(batch, 1)  # every datum meets Pyro's validation once
            # It would cost as much as a matrix product in each of the blocks.
            with nullcontext() if count == 1 else pyro.validation_enabled(False):
                block = _block(replayed(batch, count), here.start)
            yield block
        bar.update(here.stop - here.start)
        bar.close()


_Draw = Callable[[tuple[Tensor, ...], int], Draws]


def _way_to_draw(
    model: Callable[..., object],
    guide: Callable[..., object],
    source: Rows,
    plate: DataPlate | None,
    num_particles: int,
) -> _Draw:
    """Run the guide once for all particles where it takes that, or else once for each."""

    def one_by_one(batch: tuple[Tensor, ...], count: int) -> Draws:
        return tiled_draws(model, guide, batch, count, plate)

    if plate is None or num_particles == 1:
        return one_by_one
    draw = draws_at_once(model, guide, plate, _spread(source))
    return one_by_one if draw is None else draw


def plate_of_rows(
    model: Callable[..., object], guide: Callable[..., object], head: tuple[Tensor, ...]
) -> DataPlate | None:
    """The data plate, found on the first rows of the data.

    Raises:
        UndefinedError: the pair does not run on a few rows.
    """
    try:
        plate = data_plate(lambda batch: paired_traces(model, guide, batch), head)
        with preserved():
            terms(*paired_traces(model, guide, head), plate)
        return plate
    except OF_PROGRAMS as error:
        raise UndefinedError(
            f"the pair does not run on {len(head[0])} rows of the data ({error}), so that a datum "
            "cannot be evaluated by itself; a guide with a row of parameters for each datum, such "
            "as an autoguide over local sites, is trained on all data at once and bounded by its "
            "objective alone"
        ) from error


def refuse_neighbours(
    model: Callable[..., object],
    guide: Callable[..., object],
    plate: DataPlate | None,
    source: Rows,
) -> None:
    """Refuse a pair whose data meet in a batch: particles of one datum would meet too.

    Raises:
        UndefinedError: the log-probability of a datum changes with the other data of its batch.
    """
    moved = moved_by_neighbours(model, guide, plate, _spread(source))
    if moved:
        sites = ", ".join(f"{name!r} in the {role}" for role, name in moved)
        raise UndefinedError(
            f"the terms of a datum at {sites} change when another datum of its batch does, also in "
            "eval mode: weights of its particles mean nothing; pvae.check says where to look"
        )


def _spread(source: Rows) -> tuple[Tensor, ...]:
    """A few rows, from all over the data."""
    return source.arguments(torch.linspace(0, len(source) - 1, min(4, len(source))).long())


def rows_per_call(
    run: Callable[[tuple[Tensor, ...], int], object],
    source: Rows,
    plate: DataPlate | None,
    budget: int | None,
) -> int:
    """How many rows, counted once for each of their particles, fit into memory at once.

    Args:
        run: what is to be done with a batch and a count of particles; measured on one row.
        source: the data.
        plate: the data plate.
        budget: bytes that the tensors of one run may take.
    """
    if plate is None or not plate.vectorized:
        return 1  # rows may depend on each other: one at a time is always right
    sized = plate.full_size if plate.full_size != plate.rows else None
    head = source.first(1)
    few, many = (2, 6) if sized is None or sized >= 6 else (1, min(2, sized))
    with preserved():
        before, after = (
            peak_bytes(lambda count=count: run(head, count))  # type: ignore[misc]
            for count in (few, many)
        )
    per_row = max(1, (after - before) // max(1, many - few))
    limit = max(1, allowed(budget, head[0].device) // per_row)
    return limit if sized is None else min(limit, sized)


def plan(size: int, num_particles: int, limit: int) -> list[tuple[slice, int]]:
    """Which rows with how many particles, in turn: blocks of one size as far as possible."""
    width = max(1, limit // num_particles)  # rows that leave room for all particles, or some
    planned = []
    for start in range(0, size, width):
        here = slice(start, min(start + width, size))
        calls = math.ceil(num_particles * (here.stop - here.start) / limit)
        for call in range(calls):
            done, until = num_particles * call // calls, num_particles * (call + 1) // calls
            planned.append((here, until - done))
    return planned


def _block(draws: Draws, start: int) -> Block:
    return Block(start, draws.local, {site: value.item() for site, value in draws.shared.items()})
