"""Draws from the guide with their log-weights, several for each datum of a batch."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from pvae.pair.log_prob import DataPlate, terms
from pvae.pair.tiling import tiled
from pvae.pair.traces import paired_traces
from pvae.pair.vectorized_guide import takes_particles

__all__ = ["Draws", "draws_at_once", "tiled_draws"]


@dataclass(frozen=True)
class Draws:
    """Terms of the log-weights of draws, in nats.

    Attributes:
        local: by site, shape (particles, rows).
        shared: by global site, shape (); one draw for all.
    """

    local: dict[str, Tensor]
    shared: dict[str, Tensor]


def tiled_draws(
    model: Callable[..., object],
    guide: Callable[..., object],
    batch: tuple[Tensor, ...],
    count: int,
    plate: DataPlate | None,
) -> Draws:
    """Run both programs on the tiled batch.

    Raises:
        ValueError: a data plate that subsamples by itself.
    """
    width = len(batch[0])
    local, shared = terms(*paired_traces(model, guide, tiled(batch, count)), plate)
    if plate is None:
        return Draws({site: value.reshape(1, 1) for site, value in shared.items()}, {})
    for site, value in local.items():
        if len(value) != count * width:
            raise ValueError(
                f"site {site!r} has {len(value)} rows in plate {plate.name!r} for a batch of "
                f"{count * width}: a plate that subsamples by itself cannot be evaluated datum by "
                "datum; pass the subsample as the batch"
            )
    by_site = {site: value.reshape(count, width) for site, value in local.items()}
    return Draws(by_site, shared)


def draws_at_once(
    model: Callable[..., object],
    guide: Callable[..., object],
    plate: DataPlate,
    head: tuple[Tensor, ...],
) -> Callable[[tuple[Tensor, ...], int], Draws] | None:
    """A way to draw that runs the guide once for all particles, in a plate of its own.

    What the guide computes of the data alone is then computed once.

    Args:
        model: p(x, z).
        guide: q(z | x).
        plate: the data plate.
        head: a few rows of the data, on which it is tried.

    Returns:
        A function of a batch and a count; or None where the guide does not take another plate.
    """
    particles = takes_particles(model, guide, plate, head)
    if particles is None:
        return None

    def draw(batch: tuple[Tensor, ...], count: int) -> Draws:
        found = particles.draw(batch, count)
        by_site = {}
        for name, log_p in found.log_p.local.items():
            observed = found.model.nodes[name]["is_observed"]
            if observed or name in found.log_q.local:  # or else summed out: it cancels
                by_site[name] = log_p
        for name, log_q in found.log_q.local.items():
            by_site[name] = by_site.get(name, 0.0) - log_q
        return Draws(by_site, found.log_p.shared)

    return draw
