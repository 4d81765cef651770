"""Latent sites in the data plate, laid out datum by datum: the rows come first."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.indep_messenger import CondIndepStackFrame
from torch import Tensor

from pvae.data import Rows
from pvae.evaluation.blocks import plate_of_rows, refuse_neighbours, rows_per_call
from pvae.evaluation.draws import Draws, tiled_draws
from pvae.evaluation.estimate import UndefinedError
from pvae.pair.log_prob import DataPlate
from pvae.pair.modes import evaluating
from pvae.pair.preserve import seeded
from pvae.pair.sources import source_for
from pvae.pair.traces import Site, latent_sites, paired_traces, sample_sites

__all__ = ["Setting", "from_rows", "parts", "setting", "to_rows"]


@dataclass(frozen=True)
class Setting:
    """What the measures of a posterior start from.

    Attributes:
        source: the data, on the device of the pair.
        plate: the data plate.
        limit: how many rows one call of the pair sees at most.
        sites: names of the latent sites in the data plate, in the guide's order.
        shared: whether the guide has global sites beside them.
    """

    source: Rows
    plate: DataPlate
    limit: int
    sites: tuple[str, ...]
    shared: bool

    def frame(self, site: Site) -> CondIndepStackFrame:
        """The data plate at a site that is in it."""
        frame = self.plate.frame(site)
        assert frame is not None
        return frame

    def values(self, trace: poutine.Trace) -> dict[str, Tensor]:
        """The latent values in a trace by site, each of shape (rows, ...)."""
        sites = dict(sample_sites(trace))
        return {
            name: to_rows(
                sites[name]["value"], self.frame(sites[name]), len(sites[name]["fn"].event_shape)
            )
            for name in self.sites
        }

    def log_probs(self, trace: poutine.Trace) -> dict[str, Tensor]:
        """The log-probabilities of the latent values in a trace by site, each (rows,), in nats."""
        found = {}
        for name, site in sample_sites(trace):
            if name in self.sites:
                log_prob = scale_and_mask(site["fn"].log_prob(site["value"]), 1.0, site["mask"])
                found[name] = (
                    to_rows(log_prob, self.frame(site)).reshape(self.frame(site).size, -1).sum(1)
                )
        return found


@contextmanager
def setting(
    model: Callable[..., object],
    guide: Callable[..., object],
    data: object,
    *,
    seed: int,
    shared: bool = False,
) -> Iterator[Setting]:
    """Look at a pair, and hold it ready: in eval mode, seeded, without gradients.

    Args:
        model: p(x, z), called with one batch.
        guide: q(z | x), called with the same.
        data: a tensor of shape (N, ...), a tuple of such, or a split of a data set.
        seed: seeds the draws; the generators outside are left as they are.
        shared: whether the guide may have global sites, which are then left out.

    Raises:
        UndefinedError: there is no data plate, or not a vectorized one, or it subsamples by itself;
            it holds no latent site; the guide has global sites and must not.
    """
    source = source_for(data, model, guide)
    with seeded(seed), torch.no_grad(), evaluating(model, guide):
        head = source.first(2)
        plate = plate_of_rows(model, guide, head)
        if plate is None or not plate.vectorized or plate.subsamples:
            raise UndefinedError(
                f"{_plate(plate)}: the posterior of one datum is told from that of another by a "
                'vectorized plate of size len(batch), `with pyro.plate("data", len(x))`'
            )
        refuse_neighbours(model, guide, plate, source)
        model_trace, guide_trace = paired_traces(model, guide, head)
        proposed, prior = latent_sites(guide_trace), latent_sites(model_trace)
        outside = sorted(name for name, site in proposed.items() if plate.frame(site) is None)
        if outside and not shared:
            raise UndefinedError(
                f"sites {outside} are outside the data plate {plate.name!r}: all data share them, "
                "so this measure of each datum's posterior is not defined; make them parameters"
            )
        sites = tuple(name for name in proposed if name in prior and name not in outside)
        if not sites:
            raise UndefinedError(
                f"guide and model share no latent site in the data plate {plate.name!r}: the guide "
                f"samples {sorted(proposed)}, the model {sorted(prior)}"
            )

        def draw(batch: tuple[Tensor, ...], count: int) -> Draws:
            return tiled_draws(model, guide, batch, count, plate)

        limit = rows_per_call(draw, source, plate, None)
        yield Setting(source, plate, limit, sites, bool(outside))


def _plate(plate: DataPlate | None) -> str:
    if plate is None:
        return "no plate of the batch's size encloses the observed sites"
    how = "subsamples by itself" if plate.vectorized else "is a loop over the data"
    return f"the data plate {plate.name!r} {how}"


def parts(total: int, most: int) -> Iterator[slice]:
    """Go through `total` rows, at most so many at once."""
    for start in range(0, total, max(1, most)):
        yield slice(start, min(start + max(1, most), total))


def to_rows(value: Tensor, frame: CondIndepStackFrame, event_dim: int = 0) -> Tensor:
    """The data plate's dimension first; a value that all rows share is repeated."""
    assert frame.dim is not None
    dim = frame.dim - event_dim
    sizes = torch.broadcast_shapes(value.shape, (frame.size,) + (1,) * (-dim - 1))
    return value.expand(sizes).movedim(dim, 0)


def from_rows(value: Tensor, frame: CondIndepStackFrame, event_dim: int = 0) -> Tensor:
    """A value of shape (rows, ...) with the rows where the data plate wants them."""
    assert frame.dim is not None
    return value.movedim(0, frame.dim - event_dim)
