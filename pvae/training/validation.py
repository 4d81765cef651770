"""The bound on validation data, or else on a batch, after each epoch."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from pvae.data import Rows
from pvae.evaluation import Bound, EvaluationContext, elbo
from pvae.pair.pair import Pair
from pvae.training.processes import Processes

__all__ = ["Validation"]


@dataclass
class Validation:
    """Evaluates the pair; its context is made once.

    Attributes:
        pair: the networks and parameters.
        rows: data for validation, or None.
        independent: whether rows of a batch are known not to depend on each other.
        processes: those that divide the rows.
    """

    pair: Pair
    rows: Rows | None
    independent: bool
    processes: Processes
    _context: EvaluationContext | None = field(default=None, init=False)

    def bound(self, batch: tuple[Tensor, ...]) -> Bound:
        """The evidence lower bound on the validation data, or without any on a batch."""
        model, guide = self.pair.model, self.pair.guide
        data: tuple[Tensor, ...] | Rows = batch if self.rows is None else self.rows
        if self._divided:
            data = data[self.processes.rank :: self.processes.size]
        if self._context is None:
            self._context = EvaluationContext(model, guide, data, independent=self.independent)
        elif self.rows is None:
            self._context = self._context.on(data)
        bound = elbo(model, guide, self._context)
        if not self._divided:
            return bound
        values = torch.tensor([bound.mean, *bound.sites.values()], device=self.pair.device)
        weights = torch.full_like(values, len(data))
        mean, *sites = self.processes.mean(values, weights).tolist()
        return replace(bound, mean=mean, sites=dict(zip(bound.sites, sites, strict=True)))

    @property
    def _divided(self) -> bool:
        """Whether each process evaluates a part of the rows."""
        possible = self.rows is not None and len(self.rows) >= self.processes.size
        return self.processes.several and self.independent and possible
