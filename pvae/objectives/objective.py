"""What all objectives share: from a pair and a batch to a loss that can be differentiated."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, cast

import torch
from pyro import poutine
from pyro.infer import ELBO
from pyro.infer.util import torch_item
from pyro.util import warn_if_nan
from torch import Tensor, nn

from pvae.engine.step import undone
from pvae.objectives.structure import Pair, Program, found_to_be
from pvae.pair.discovery import reach
from pvae.pair.traces import paired_traces

__all__ = ["Objective", "PerDatum"]


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
        >>> class Mean(Objective):
        ...     def estimate(self, pair, batch):
        ...         draw = pair.particles.draw(batch, self.num_particles)
        ...         bound = draw.log_weights.mean(0)
        ...         return PerDatum(bound, bound, draw.shared)
        >>> Mean(num_particles=3).num_particles
        3
    """

    least_particles = 1

    def __init__(self, num_particles: int = 1) -> None:
        self.num_particles = num_particles
        self._check_number()
        super().__init__(num_particles=num_particles, vectorize_particles=True)  # type: ignore[no-untyped-call]
        self._pair: Pair | None = None
        self._asked: tuple[object, ...] = ()
        self._parts: list[nn.Module] = []

    def _check_number(self) -> None:
        if self.num_particles < self.least_particles:
            raise ValueError(
                f"{type(self).__name__} got num_particles={self.num_particles}: it needs at least "
                f"{self.least_particles}"
            )

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
        modes = [part.training for part in self._parts]
        asked = (model, guide, self.num_particles, modes)
        if self._pair is None or self._asked != asked:
            self._check_number()
            networks = [network for _, network in reach({"": model, " ": guide}, nn.Module)]
            with undone(networks):
                programs = self.programs(model, guide)
                name, several = type(self).__name__, self.num_particles > 1
                pair = found_to_be(name, *programs, batch, several=several)
                self.refuse(pair, batch)
            self._parts = [part for network in networks for part in network.modules()]
            modes = [part.training for part in self._parts]
            self._pair, self._asked = pair, (model, guide, self.num_particles, modes)
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
        return -(bound.sum() * pair.weight(len(batch[0])) + found.shared)

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


def _read(loss: Tensor) -> float:
    value = torch_item(loss)
    warn_if_nan(value, "loss")
    return cast(float, value)
