"""Log-weights of many particles per datum, in blocks that fit into memory."""

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import pyro
from torch import Tensor
from tqdm import tqdm

from pvae._validation import at_least
from pvae.evaluation.compiled_log_weights import CompiledTerms
from pvae.evaluation.context import (
    EvaluationContext,
    log_weight_terms_of,
    parts,
    tiled_terms,
)
from pvae.pair.log_prob import Terms
from pvae.pair.preserve import preserve_generators
from pvae.pair.vectorized_guide import vectorized_particles

__all__ = ["blocks", "plan", "vectorized_terms"]

_Run = Callable[[tuple[Tensor, ...], int], Terms]


def blocks(
    context: EvaluationContext,
    num_particles: int,
    *,
    seed: int,
    max_bytes: int | None = None,
    progress: str = "",
    apart: bool = False,
) -> Iterator[tuple[slice, Terms]]:
    """Go through data and particles in blocks that fit into memory, without gradients.

    Args:
        context: the pair and the data.
        num_particles: draws from the guide per datum, at least 1.
        seed: seeds the draws.
        max_bytes: that the tensors of one block may take; a block has at least one particle.
        progress: label of the progress bar; "" for none.
        apart: one particle per block, so that draws that the particles of a block would share are
            drawn for each: those of global sites, and of plates that select elements of a datum.

    Returns:
        For each block its rows, and the terms of the log-weights: local ones of shape
        (particles, rows), global ones for one draw per block.

    Raises:
        ValueError: if there is less than one particle, or the data plate subsamples the batch
            itself.
    """
    at_least(1, num_particles=num_particles)
    source = context.source
    with context.evaluating(seed):
        run = _choose(context, num_particles)
        name = "run" if num_particles == 1 else "particles"
        limit = context.rows_per_call(run, max_bytes, name=name)
        if apart:
            planned = [(w, 1) for w in parts(len(source), limit) for _ in range(num_particles)]
        else:
            planned = plan(len(source), num_particles, limit)
        shapes = ((where.stop - where.start, count) for where, count in planned)
        compiled = CompiledTerms(run, shapes)
        bar = tqdm(
            total=len(source),
            desc=progress,
            unit="rows",
            disable=None if progress else True,
            leave=False,
        )
        here, batch = slice(0, 0), source.first(1)
        for where, count in planned:
            if where != here:
                bar.update(here.stop - here.start)
                here, batch = where, source.arguments(where)
                if count > 1:
                    with preserve_generators():
                        run(batch, 1)  # Pyro validates every datum once
            # Validation would cost as much as a matrix product in each of the blocks.
            with nullcontext() if count == 1 else pyro.validation_enabled(False):
                terms = compiled(batch, count)
            yield here, terms
        bar.update(here.stop - here.start)
        bar.close()


def _choose(context: EvaluationContext, num_particles: int) -> _Run:
    """Run the guide once for all particles if it allows that, and otherwise once per particle."""
    vectorized = None
    if context.plate is not None and num_particles > 1:
        vectorized = vectorized_terms(context)
    return (lambda batch, n: tiled_terms(context, batch, n)) if vectorized is None else vectorized


def vectorized_terms(context: EvaluationContext) -> _Run | None:
    """A function that runs the guide once for all particles; None if the guide does not allow it.

    What the guide computes of the data is then computed once per datum.
    """
    assert context.guide is not None
    assert context.plate is not None
    particles = vectorized_particles(context.model, context.guide, context.plate, context.spread(4))
    if particles is None:
        return None
    particles.summed_out = context.summed_out
    return lambda batch, count: log_weight_terms_of(context, particles.draw(batch, count))


def plan(size: int, num_particles: int, limit: int) -> list[tuple[slice, int]]:
    """Rows and number of particles of each block; as many blocks as possible have one shape.

    Example:
        >>> plan(3, 10, 20)
        [(slice(0, 2, None), 10), (slice(2, 3, None), 10)]
    """
    width = max(1, limit // num_particles)  # rows that leave room for all particles, or some
    planned = []
    for start in range(0, size, width):
        here = slice(start, min(start + width, size))
        calls = math.ceil(num_particles * (here.stop - here.start) / limit)
        for call in range(calls):
            done, until = num_particles * call // calls, num_particles * (call + 1) // calls
            planned.append((here, until - done))
    return planned
