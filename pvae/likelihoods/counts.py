"""Likelihoods of counts: Poisson, negative binomial, and that with more zeros."""

import pyro.distributions as dist
from pyro.distributions import TorchDistribution
from torch import Tensor

from pvae.likelihoods.outputs import Likelihood
from pvae.nn import positive

__all__ = ["NegativeBinomial", "Poisson", "ZeroInflatedNegativeBinomial"]

_FLOOR = 1e-4  # of rates and numbers of failures


class Poisson(Likelihood):
    """Counts x = 0, 1, ...: one rate per dimension, a softplus of the network's output.

    Example:
        >>> import torch
        >>> Poisson((3,))(torch.zeros(5, 1, 3)).mean[0].round(decimals=2)
        tensor([1., 1., 1.])
    """

    def distribution(self, output: Tensor) -> TorchDistribution:  # noqa: D102
        (raw,) = self._unbind(output)
        poisson: TorchDistribution = dist.Poisson(positive(raw, floor=_FLOOR))
        return poisson


class NegativeBinomial(Likelihood):
    """Counts x = 0, 1, ... with a variance above their mean: mean and dispersion per dimension.

    The variance is mean + mean^2 / r, with r, the number of failures, from the network as the mean.

    Example:
        >>> import torch
        >>> x = NegativeBinomial((3,))(torch.zeros(5, 2, 3))
        >>> x.mean[0].round(decimals=2), x.variance[0].round(decimals=2)
        (tensor([1., 1., 1.]), tensor([2., 2., 2.]))
    """

    outputs = 2

    def distribution(self, output: Tensor) -> TorchDistribution:  # noqa: D102
        mean, failures = (positive(raw, floor=_FLOOR) for raw in self._unbind(output))
        negative_binomial: TorchDistribution = dist.NegativeBinomial(
            failures, logits=mean.log() - failures.log()
        )
        return negative_binomial


class ZeroInflatedNegativeBinomial(Likelihood):
    """Counts x = 0, 1, ... with more zeros: a negative binomial, or 0 with another probability.

    References:
        Deep generative modeling for single-cell transcriptomics (Lopez et al., 2018),
        https://doi.org/10.1038/s41592-018-0229-2.

    Example:
        >>> import torch
        >>> ZeroInflatedNegativeBinomial((3,))(torch.zeros(5, 3, 3)).mean[0].round(decimals=2)
        tensor([0.5000, 0.5000, 0.5000])
    """

    outputs = 3

    def distribution(self, output: Tensor) -> TorchDistribution:  # noqa: D102
        raw_mean, raw_failures, gate = self._unbind(output)
        mean, failures = (positive(raw, floor=_FLOOR) for raw in (raw_mean, raw_failures))
        logits = mean.log() - failures.log()
        inflated: TorchDistribution = dist.ZeroInflatedNegativeBinomial(
            failures, logits=logits, gate_logits=gate
        )
        return inflated
