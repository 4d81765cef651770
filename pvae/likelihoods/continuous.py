"""Likelihoods of real, positive and proportional x beside the Gaussian ones."""

import pyro.distributions as dist
from pyro.distributions import TorchDistribution
from torch import Tensor

from pvae.likelihoods.outputs import Likelihood
from pvae.nn import positive

__all__ = ["Beta", "LogNormal", "StudentT"]


class StudentT(Likelihood):
    """Real x with heavy tails: loc, scale and degrees of freedom, above 2, per dimension.

    Example:
        >>> import torch
        >>> x = StudentT((3,))(torch.zeros(5, 3, 3))
        >>> x.base_dist.df[0]
        tensor([3., 3., 3.])
    """

    outputs = 3

    def distribution(self, output: Tensor) -> TorchDistribution:  # noqa: D102
        loc, raw, tails = self._unbind(output)
        student: TorchDistribution = dist.StudentT(
            2 + positive(tails, floor=1e-3), loc, positive(raw, floor=1e-3)
        )
        return student


class LogNormal(Likelihood):
    """Positive x: N(log x; loc, scale^2) with loc and scale of each dimension from the network.

    Example:
        >>> import torch
        >>> x = LogNormal((3,))(torch.zeros(5, 2, 3))
        >>> x.log_prob(torch.ones(5, 3)).shape  # nats per datum
        torch.Size([5])
    """

    outputs = 2

    def distribution(self, output: Tensor) -> TorchDistribution:  # noqa: D102
        loc, raw = self._unbind(output)
        log_normal: TorchDistribution = dist.LogNormal(loc, positive(raw, floor=1e-3))
        return log_normal


class Beta(Likelihood):
    """x strictly between 0 and 1: both concentrations of each dimension from the network.

    Example:
        >>> import torch
        >>> Beta((3,))(torch.zeros(5, 2, 3)).mean[0]
        tensor([0.5000, 0.5000, 0.5000])
    """

    outputs = 2

    def distribution(self, output: Tensor) -> TorchDistribution:  # noqa: D102
        one, zero = (positive(raw, floor=1e-3) for raw in self._unbind(output))
        beta: TorchDistribution = dist.Beta(one, zero)
        return beta
