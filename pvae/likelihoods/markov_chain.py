"""A Markov chain of latent states as one distribution."""

from collections.abc import Callable

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.types import _size

__all__ = ["MarkovChain"]


class MarkovChain(TorchDistribution):
    """p(z) = prod_t p(z_t | z_{t-1}): draws step by step, and the density of all steps at once.

    Args:
        step: from the state before, `(*batch, z_dim)`, and the input of a step or None, to the
            distribution of the state, of event shape `(z_dim,)`. It is called with one step and,
            for the density, with all of them as a further batch dimension.
        first: the state before the first step, shape `(z_dim,)`.
        steps: number T of steps, at least 1.
        inputs: one for each step, `(*batch, T, features)`, or None.
        mask: bool `(*batch, T)`; steps where it is False do not count.
        batch_shape: default: that of inputs and mask.
        validate_args: whether arguments and values are checked.

    Example:
        >>> import pyro.distributions as dist
        >>> walk = MarkovChain(
        ...     lambda before, _: dist.Normal(before, 1.0).to_event(1), torch.zeros(2), steps=10
        ... )
        >>> walk.rsample().shape, walk.log_prob(torch.zeros(5, 10, 2)).shape  # nats
        (torch.Size([10, 2]), torch.Size([5]))
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012
    support = constraints.independent(constraints.real, 2)
    has_rsample = True

    def __init__(
        self,
        step: Callable[[Tensor, Tensor | None], TorchDistribution],
        first: Tensor,
        *,
        steps: int,
        inputs: Tensor | None = None,
        mask: Tensor | None = None,
        batch_shape: _size | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.step, self.first, self.inputs, self.mask_ = step, first, inputs, mask
        if batch_shape is None:
            of_inputs = inputs.shape[:-2] if inputs is not None else torch.Size()
            of_mask = mask.shape[:-1] if mask is not None else torch.Size()
            batch_shape = torch.broadcast_shapes(of_inputs, of_mask)
        event_shape = torch.Size((steps, *first.shape))
        super().__init__(torch.Size(batch_shape), event_shape, validate_args=validate_args)

    def expand(self, batch_shape: _size, _instance: "MarkovChain | None" = None) -> "MarkovChain":
        """Return the same distribution with its batch expanded to `batch_shape`."""
        expanded = MarkovChain(
            self.step, self.first, steps=self.event_shape[0], inputs=self.inputs, mask=self.mask_,
            batch_shape=batch_shape, validate_args=False,
        )  # fmt: skip
        expanded._validate_args = self._validate_args
        return expanded

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        """Draw states step by step, shape `(*sample_shape, *batch_shape, T, z_dim)`."""
        shape = self._extended_shape(sample_shape)
        steps, inputs = shape[-2], self.inputs
        before = self.first.expand(*shape[:-2], shape[-1])
        drawn = []
        for t in range(steps):
            given = None if inputs is None else inputs[..., t, :].expand(*shape[:-2], -1)
            before = self.step(before, given)()  # as some flows, of zuko, have no rsample
            drawn.append(before)
        return torch.stack(drawn, -2)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density in nats, summed over the steps that count; shape `(*batch,)`."""
        if self._validate_args:
            self._validate_sample(value)
        value = value.expand(
            torch.broadcast_shapes(value.shape, self.batch_shape + self.event_shape)
        )
        start = self.first.expand(*value.shape[:-2], 1, value.shape[-1])
        before = torch.cat([start, value[..., :-1, :]], -2)
        inputs = self.inputs
        if inputs is not None:
            inputs = inputs.expand(*value.shape[:-1], inputs.shape[-1])
        terms: Tensor = self.step(before, inputs).log_prob(value)
        if self.mask_ is not None:
            terms = torch.where(self.mask_, terms, torch.zeros_like(terms))
        return terms.sum(-1)
