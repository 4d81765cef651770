"""Baselines, which are subtracted from learning signals to reduce the variance of scores."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pvae.nn import MLP

__all__ = ["MovingAverage", "NetworkBaseline", "leave_one_out"]


def leave_one_out(signal: Tensor) -> Tensor:
    """The mean of the signals of a datum's other particles.

    Args:
        signal: shape (particles, rows); at least 2 particles.

    Returns:
        Shape (particles, rows).

    References:
        Buy 4 REINFORCE Samples, Get a Baseline for Free! (W. Kool, H. van Hoof, M. Welling, 2019),
        https://openreview.net/forum?id=r1lgTGL5DE
    """
    return (signal.sum(0) - signal) / (len(signal) - 1)


class MovingAverage(nn.Module):
    """Moving average of the learning signal over recent batches.

    Args:
        decay: factor by which a batch's weight shrinks with each later batch, in [0, 1).

    Example:
        >>> average = MovingAverage(decay=0.5)
        >>> average.see(torch.tensor([2.0, 4.0]))  # learning signals of a batch, in nats
        >>> average()
        tensor(3.)
    """

    average: Tensor
    weight: Tensor

    def __init__(self, decay: float = 0.9) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"decay is {decay}: give a number from 0 up to, but not including, 1")
        self.decay = decay
        self.register_buffer("average", torch.zeros(()))
        self.register_buffer("weight", torch.zeros(()))

    def forward(self, *batch: Any) -> Tensor:
        """The average so far, shape (); 0 before the first batch."""
        return self.average / self.weight.clamp(min=1 - self.decay)

    def see(self, signal: Tensor) -> None:
        """Update the average with the learning signals of a batch."""
        with torch.no_grad():
            self.average.mul_(self.decay).add_(signal.mean(), alpha=1 - self.decay)
            self.weight.mul_(self.decay).add_(1 - self.decay)


class NetworkBaseline(nn.Module):
    """A moving average plus a network, which predicts a datum's deviation from it.

    The network reads the first argument of the programs, and is trained on its squared error.

    References:
        Neural Variational Inference and Learning in Belief Networks (A. Mnih, K. Gregor, 2014),
        https://arxiv.org/abs/1402.0030

    Args:
        x_shape: shape of one datum.
        hidden: width of the single hidden layer, or widths of several.
        decay: as in `MovingAverage`.

    Example:
        >>> baseline = NetworkBaseline(x_shape=(8, 8))
        >>> baseline(torch.zeros(5, 8, 8)).shape  # one expected signal per datum, in nats
        torch.Size([5])
    """

    def __init__(
        self, x_shape: Sequence[int], *, hidden: int | Sequence[int] = 100, decay: float = 0.9
    ) -> None:
        super().__init__()
        self.average = MovingAverage(decay)
        self.network = MLP(math.prod(x_shape), hidden, 1, activation="tanh")

    def forward(self, *batch: Any) -> Tensor:
        """The expected learning signal of each datum, shape (rows,), in nats."""
        weight = next(self.network.parameters())
        x = batch[0].reshape(len(batch[0]), -1).to(weight.dtype)
        y: Tensor = self.network(x)[..., 0]
        total: Tensor = self.average() + y
        return total

    def see(self, signal: Tensor) -> None:
        """Update the average with the learning signals of a batch."""
        self.average.see(signal)
