"""The base class of objectives: from a pair and a batch to a differentiable loss."""

import inspect
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, cast

import pyro
import torch
from pyro import poutine
from pyro.infer import ELBO
from pyro.infer.util import torch_item
from pyro.util import warn_if_nan
from torch import Tensor, nn

from pvae._validation import whole
from pvae.objectives.structure import PairStructure, Program, find_structure
from pvae.pair.discovery import reach
from pvae.pair.preserve import preserve_state
from pvae.pair.traces import paired_traces

__all__ = ["Objective", "PerDatum"]


@dataclass(frozen=True)
class PerDatum:
    """A bound of each datum, and the surrogate whose gradient estimates the bound's.

    Attributes:
        value: shape (rows,), in nats per datum.
        surrogate: shape (rows,); its gradient is the estimate, and its value has no meaning.
        global_terms: log p - log q of the global sites, shape (), in nats per data set.

    Example:
        >>> bound = torch.tensor([-1.0, -2.0], requires_grad=True)
        >>> PerDatum(value=bound, surrogate=bound, global_terms=torch.zeros(())).value.shape
        torch.Size([2])
    """

    value: Tensor
    surrogate: Tensor
    global_terms: Tensor


class Objective(ELBO):
    """A bound on log p(x) of each datum, and an estimator of its gradient.

    Subclasses implement `estimate`, and `check_compatible` if they do not fit every pair. Scales
    (`poutine.scale`, warm-up) multiply the log-probabilities; the scale of a data plate that is
    sized to the data set multiplies the sum over the batch.

    An `estimate` that also names `index` gets the numbers of the batch's rows in the training data,
    int64 (rows,), from `fit`, and None elsewhere.

    Args:
        num_particles: draws from the guide per datum.

    Attributes:
        rows: number of training data, if `fit` passes their numbers; they are then the last
            argument of each batch.

    Raises:
        ValueError: if there are fewer particles than the estimator needs.

    Example:
        >>> class Mean(Objective):
        ...     def estimate(self, structure, batch):
        ...         draw = structure.particles.draw(batch, self.num_particles)
        ...         bound = draw.log_weights.mean(0)
        ...         return PerDatum(bound, bound, draw.global_terms)
        >>> Mean(num_particles=3).num_particles
        3
    """

    min_particles = 1
    trains_guide = True

    def __init__(self, num_particles: int = 1) -> None:
        self.num_particles = num_particles
        self._check_number()
        super().__init__(num_particles=num_particles, vectorize_particles=True)  # type: ignore[no-untyped-call]
        self.rows: int | None = None
        self._structure: PairStructure | None = None
        self._asked: tuple[object, ...] = ()
        self._parts: list[nn.Module] = []
        self._named: tuple[object, Program, Program] | None = None

    def _check_number(self) -> None:
        whole(0, num_particles=self.num_particles)
        if self.num_particles < self.min_particles:
            raise ValueError(
                f"{type(self).__name__} got num_particles={self.num_particles}: it needs at least "
                f"{self.min_particles}"
            )

    @abstractmethod
    def estimate(self, structure: PairStructure, batch: tuple[Any, ...]) -> PerDatum:
        """The bound of each datum of a batch, and the surrogate to differentiate.

        Args:
            structure: model, guide and their particles.
            batch: the arguments of the programs, each of shape (rows, ...).
        """

    def check_compatible(self, structure: PairStructure, batch: tuple[Any, ...]) -> None:
        """Raise `IncompatibleObjectiveError` if this estimator does not fit a pair."""

    @property
    def names_index(self) -> bool:
        """Whether `estimate` asks for the numbers of the rows."""
        return "index" in inspect.signature(self.estimate).parameters

    def _estimated(self, structure: PairStructure, batch: tuple[Any, ...]) -> PerDatum:
        if self.rows is None or not self.names_index:
            return self.estimate(structure, batch)
        estimate: Any = self.estimate
        return cast(PerDatum, estimate(structure, batch, index=batch[-1]))

    def programs(self, model: Program, guide: Program) -> tuple[Program, Program]:
        """The programs to run instead of the pair's."""
        return model, guide

    def networks(self) -> dict[str, nn.Module]:
        """Networks of the objective, which are trained with the pair's.

        Their names start with "objective."; `estimate` registers each under its name.
        """
        return {}

    def set_epoch(self, number: int) -> None:
        """Update schedules; `fit` calls it before each epoch, counted from 0."""

    def scheduled(self) -> dict[str, float]:
        """The present values of schedules, for the history."""
        return {}

    def prepare(self, model: Program, guide: Program, *batch: Any, **named: Any) -> PairStructure:
        """Find the structure of a pair, once, and check that it is compatible.

        Generators, buffers and gradients are preserved.

        Args:
            model: p(x, z).
            guide: q(z | x).
            *batch: the arguments of the programs, each of shape (rows, ...).
            **named: further arguments, by name.

        Raises:
            IncompatibleObjectiveError: if this objective does not fit the pair.
        """
        model, guide, batch = self._in_order(model, guide, batch, named)
        if self._structure is None or self._asked != self._depends_on(model, guide):
            self._check_number()
            networks = [network for _, network in reach({"": model, " ": guide}, nn.Module)]
            with preserve_state(networks):
                programs = self.programs(model, guide)
                name, several = type(self).__name__, self.num_particles > 1
                structure = find_structure(name, *programs, batch, several=several)
                self.check_compatible(structure, batch)
            self._parts = [part for network in networks for part in network.modules()]
            self._structure, self._asked = structure, self._depends_on(model, guide)
        return self._structure

    def _depends_on(self, model: Program, guide: Program) -> tuple[object, ...]:
        """What the structure of a pair depends on, apart from the batch."""
        modes = [part.training for part in self._parts]
        store = pyro.get_param_store()._params
        params = [id(p) for name, p in store.items() if not name.startswith("objective.")]
        return model, guide, self.num_particles, modes, params

    def _in_order(
        self, model: Program, guide: Program, batch: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[Program, Program, tuple[Any, ...]]:
        """Programs that take named arguments by their position, after the others."""
        if not named:
            return model, guide, batch
        asked = model, guide, len(batch), tuple(named)
        if self._named is None or self._named[0] != asked:
            ordered = [_by_position(p, len(batch), list(named)) for p in (model, guide)]
            self._named = asked, ordered[0], ordered[1]
        return self._named[1], self._named[2], (*batch, *named.values())

    def per_datum(self, model: Program, guide: Program, *batch: Any, **named: Any) -> Tensor:
        """The bound of each datum, shape (rows,), in nats, without terms of global sites."""
        model, guide, batch = self._in_order(model, guide, batch, named)
        with torch.no_grad():
            return self._estimated(self.prepare(model, guide, *batch), batch).value

    def differentiable_loss(
        self, model: Program, guide: Program, *batch: Any, **named: Any
    ) -> Tensor:
        """Minus the bound, summed over the data; its gradient is the estimator's.

        Args:
            model: p(x, z).
            guide: q(z | x).
            *batch: the arguments of the programs, each of shape (rows, ...).
            **named: further arguments, by name.
        """
        model, guide, batch = self._in_order(model, guide, batch, named)
        structure = self.prepare(model, guide, *batch)
        found = self._estimated(structure, batch)
        bound = found.surrogate + (found.value - found.surrogate).detach()
        return -(bound.sum() * structure.scale(len(batch[0])) + found.global_terms)

    def loss(self, model: Program, guide: Program, *batch: Any, **named: Any) -> float:
        """Minus the bound, summed over the data, without a gradient."""
        with torch.no_grad():
            return _read(self.differentiable_loss(model, guide, *batch, **named))

    def loss_and_grads(self, model: Program, guide: Program, *batch: Any, **named: Any) -> float:
        """Minus the bound, summed over the data; accumulates the gradients of the parameters."""
        loss = self.differentiable_loss(model, guide, *batch, **named)
        if loss.requires_grad:
            loss.backward(retain_graph=self.retain_graph)
        return _read(loss)

    def _get_trace(
        self, model: Program, guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[poutine.Trace, poutine.Trace]:
        """One draw, as Pyro's base class asks for."""
        del kwargs
        return paired_traces(model, guide, args)


def _by_position(program: Program, count: int, names: list[str]) -> Program:
    """A program that takes the arguments of these names by position, after `count` others."""

    def run(*batch: Any) -> object:
        return program(*batch[:count], **dict(zip(names, batch[count:], strict=True)))

    return run


def _read(loss: Tensor) -> float:
    value = torch_item(loss)
    warn_if_nan(value, "loss")
    return cast(float, value)
