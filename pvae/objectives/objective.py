"""What all objectives share: from a pair and a batch to a loss that can be differentiated."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from pyro import poutine
from pyro.infer import ELBO
from pyro.infer.util import torch_item
from pyro.util import warn_if_nan
from torch import Tensor, nn

from pvae.objectives.particles import Particles, takes_particles
from pvae.objectives.weights import DataPlate, data_plate
from pvae.randomness import preserved
from pvae.traces import latent_sites, paired_traces

__all__ = ["Objective", "Pair", "PerDatum", "UnsuitableError"]

Program = Callable[..., object]


class UnsuitableError(ValueError):
    """An objective and a pair that do not go together; the message says why, and what would do."""


@dataclass(frozen=True)
class PerDatum:
    """A bound, and what to differentiate for the estimate of its gradient.

    Attributes:
        value: shape (rows,), in nats per datum.
        surrogate: shape (rows,); its gradient is the estimate, its value means nothing.
        shared: the terms of global sites, shape (), differentiated as they are.
    """

    value: Tensor
    surrogate: Tensor
    shared: Tensor


@dataclass(frozen=True)
class Pair:
    """A pair as an objective has found it to be, before its first step.

    Attributes:
        model: p(x, z).
        guide: q(z | x).
        plate: the data plate.
        particles: draws from it.
        model_trace: of a run on the first batch, at the draws of `guide_trace`.
        guide_trace: likewise.
    """

    model: Program
    guide: Program
    plate: DataPlate
    particles: Particles
    model_trace: poutine.Trace
    guide_trace: poutine.Trace

    @property
    def discrete(self) -> list[str]:
        """Sites of the guide whose draws have no gradient."""
        sites = latent_sites(self.guide_trace)
        return [name for name, site in sites.items() if not site["fn"].has_rsample]

    @property
    def shared(self) -> list[str]:
        """Global sites of the guide."""
        sites = latent_sites(self.guide_trace)
        return [name for name, site in sites.items() if self.plate.frame(site) is None]


class Objective(ELBO):
    """A bound on log p(x) of each datum, and an estimator of its gradient.

    One of your own is a subclass with one method, `estimate`, and with `refuse` where it does not
    suit every pair. What a pair's scales say (`poutine.scale`, warm-up) is part of the
    log-probabilities; a data plate sized to the data set weighs the sum over the batch.

    Args:
        num_particles: draws from the guide per datum.

    Raises:
        ValueError: fewer particles than the estimator needs.

    Example:
        >>> class Renyi(Objective):
        ...     def estimate(self, pair, batch):
        ...         draw = pair.particles.draw(batch, self.num_particles)
        ...         bound = 2 * (draw.log_weights / 2).logsumexp(0)  # alpha = 1/2
        ...         bound = bound - 2 * math.log(self.num_particles)
        ...         return PerDatum(bound, bound, draw.shared)
    """

    least_particles = 1

    def __init__(self, num_particles: int = 1) -> None:
        if num_particles < self.least_particles:
            raise ValueError(
                f"{type(self).__name__} got num_particles={num_particles}: it needs at least "
                f"{self.least_particles}"
            )
        super().__init__(num_particles=num_particles, vectorize_particles=True)  # type: ignore[no-untyped-call]
        self._pair: Pair | None = None
        self._asked: tuple[object, ...] = ()

    @abstractmethod
    def estimate(self, pair: Pair, batch: tuple[Any, ...]) -> PerDatum:
        """The bound of each datum of a batch, and what to differentiate.

        Args:
            pair: model, guide and their particles.
            batch: the arguments of the programs, each of shape (rows, ...).
        """

    def refuse(self, pair: Pair, batch: tuple[Any, ...]) -> None:
        """Raise `UnsuitableError` where this estimator makes no sense for a pair."""

    def programs(self, model: Program, guide: Program) -> tuple[Program, Program]:
        """The programs to run in the place of a pair's."""
        return model, guide

    def networks(self) -> dict[str, nn.Module]:
        """Networks of the objective's own, which are trained with the pair's.

        Each under a name that starts with "objective.", by which `estimate` gives it to
        `pyro.module`.
        """
        return {}

    def set_epoch(self, number: int) -> None:
        """Called by the loop before each epoch, counted from 0: the place for schedules."""

    def scheduled(self) -> dict[str, float]:
        """What schedules have set, for the history of a training."""
        return {}

    def prepare(self, model: Program, guide: Program, *batch: Any) -> Pair:
        """Find out what has to be known of a pair, once; generators are left as they were.

        Args:
            model: p(x, z).
            guide: q(z | x).
            *batch: the arguments of the programs, each of shape (rows, ...).

        Raises:
            UnsuitableError: this objective makes no sense for the pair.
        """
        asked = (model, guide, self.num_particles > 1)
        if self._pair is None or self._asked != asked:
            with preserved():
                pair = self._found(*self.programs(model, guide), batch)
                self.refuse(pair, batch)
            self._pair, self._asked = pair, asked
        return self._pair

    def per_datum(self, model: Program, guide: Program, *batch: Any) -> Tensor:
        """The bound of each datum, shape (rows,), in nats, without terms of global sites."""
        with torch.no_grad():
            return self.estimate(self.prepare(model, guide, *batch), batch).value

    def differentiable_loss(self, model: Program, guide: Program, *batch: Any) -> Tensor:
        """Minus the bound, summed over the data; its gradient is the estimator's.

        Args:
            model: p(x, z).
            guide: q(z | x).
            *batch: the arguments of the programs, each of shape (rows, ...).
        """
        pair = self.prepare(model, guide, *batch)
        found = self.estimate(pair, batch)
        bound = found.surrogate + (found.value - found.surrogate).detach()
        return -(bound.sum() * _weight(pair.plate, len(batch[0])) + found.shared)

    def loss(self, model: Program, guide: Program, *batch: Any) -> float:
        """Minus the bound, summed over the data, without a gradient."""
        with torch.no_grad():
            return _read(self.differentiable_loss(model, guide, *batch))

    def loss_and_grads(self, model: Program, guide: Program, *batch: Any) -> float:
        """Minus the bound, summed over the data; adds the gradients to those of the parameters."""
        loss = self.differentiable_loss(model, guide, *batch)
        if loss.requires_grad:
            loss.backward(retain_graph=self.retain_graph)
        return _read(loss)

    def _get_trace(
        self, model: Program, guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[poutine.Trace, poutine.Trace]:
        """One draw, as Pyro's base class asks for."""
        del kwargs
        return paired_traces(model, guide, args)

    def _found(self, model: Program, guide: Program, batch: tuple[Any, ...]) -> Pair:
        name = type(self).__name__
        if not batch or not isinstance(batch[0], Tensor) or not batch[0].dim():
            raise UnsuitableError(
                f"{name} takes a batch, x of shape (rows, ...), as the first argument of the "
                f"programs, not {_shape_of(batch[0]) if batch else 'nothing'}; use Trace_ELBO"
            )
        traces = paired_traces(model, guide, batch)
        plate = data_plate(lambda part: paired_traces(model, guide, part), batch)
        if plate is None or not plate.vectorized or plate.subsamples:
            what = (
                f"no plate of {len(batch[0])} elements encloses the data"
                if plate is None
                else f"plate {plate.name!r} picks rows of the batch by itself"
                if plate.subsamples
                else f"plate {plate.name!r} is a loop"
            )
            raise UnsuitableError(
                f"{name} is a bound for each datum, and {what}: put the sites of a datum into "
                'pyro.plate("data", len(x)), or use Trace_ELBO'
            )
        missing = [site for site in latent_sites(traces[0]) if site not in traces[1].nodes]
        if missing:
            raise UnsuitableError(
                f"{name} needs a draw of each latent site, and the guide has none of {missing}: "
                "add them to the guide, or use TraceEnum_ELBO, which sums them out"
            )
        particles = None
        if self.num_particles > 1:
            step = max(1, len(batch[0]) // 4)
            head = tuple(_rows(part, slice(None, None, step), len(batch[0])) for part in batch)
            particles = takes_particles(model, guide, plate, head, scaled=True)
        particles = particles or Particles(model, guide, plate, scaled=True)
        pair = Pair(model, guide, plate, particles, *traces)
        loose = [site for site in pair.shared if site in pair.discrete]
        if loose:
            raise UnsuitableError(
                f"{name} has no gradient of the global sites {loose}, whose draws are not "
                "reparameterized: use Trace_ELBO"
            )
        return pair


def _weight(plate: DataPlate, rows: int) -> float:
    """What the sum over a batch is multiplied with, where the plate is larger than the batch."""
    return plate.full_size / rows if plate.full_size != plate.rows else 1.0


def _rows(part: Any, where: slice, rows: int) -> Any:
    return part[where] if isinstance(part, Tensor) and part.dim() and len(part) == rows else part


def _read(loss: Tensor) -> float:
    value = torch_item(loss)
    warn_if_nan(value, "loss")
    return cast(float, value)


def _shape_of(value: object) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
