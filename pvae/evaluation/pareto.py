"""The Pareto diagnostic of importance sampling: the tail of the weights."""

import math

import torch
from torch import Tensor

from pvae.evaluation.memory import allowed_bytes

__all__ = ["Tails", "pareto_k", "trusted_below"]


class Tails:
    """The largest log-weights of each datum, gathered block by block.

    Args:
        rows: the number of data.
        num_particles: the number S of draws per datum; the tail is the largest min(S / 5,
            3 sqrt(S)) of their weights.
        device: of the weights.
    """

    def __init__(self, rows: int, num_particles: int, device: torch.device | None = None) -> None:
        self.length = math.ceil(min(num_particles / 5, 3 * math.sqrt(num_particles)))
        # One more: the tail is what exceeds the largest weight outside of it.
        self.kept = min(self.length + 1, num_particles)
        shape = self.kept, rows
        self.largest = torch.full(shape, -math.inf, dtype=torch.float64, device=device)

    def add(self, start: int, log_weights: Tensor) -> None:
        """Add log-weights of shape (particles, rows) for the rows from `start` on."""
        here = slice(start, start + log_weights.shape[1])
        together = torch.cat([self.largest[:, here], log_weights])
        self.largest[:, here] = together.topk(self.kept, dim=0).values

    def k(self, max_bytes: int | None = None) -> Tensor:
        """The shape of a generalized Pareto distribution fitted to each tail, (rows,).

        Weights that tie with the largest one outside of the tail are no part of it. Infinity if
        fewer than five are left; NaN if all weights of the tail are equal up to a thousandth, or
        there are too few draws for a tail of five: they say nothing.
        """
        if self.length < 5:
            return torch.full((self.largest.shape[1],), math.nan)
        shift = self.largest[:1]  # weights are known up to a factor
        weights = (self.largest - shift).exp()
        exceedances = weights[:-1] - weights[-1:]
        equal = exceedances.amax(0) < _EQUAL
        return pareto_k(exceedances.masked_fill(equal, 0.0).T, max_bytes)


def pareto_k(exceedances: Tensor, max_bytes: int | None = None) -> Tensor:
    """The shape parameter k of generalized Pareto distributions fitted to samples.

    The estimate averages a profile likelihood over a grid under a weak prior, and shrinks it to 0.5
    with the weight of ten observations. Samples have moments of order below 1 / k.

    References:
        A New and Efficient Estimation Method for the Generalized Pareto Distribution (J. Zhang,
        M. A. Stephens, 2009).
        Pareto Smoothed Importance Sampling (A. Vehtari, D. Simpson, A. Gelman, Y. Yao, J. Gabry,
        2015; appendix), https://arxiv.org/abs/1507.02646

    Args:
        exceedances: values of shape (rows, n), at least 0; those that are 0 are left out.
        max_bytes: bytes that the fit may use at once.

    Returns:
        k, of shape (rows,): negative for a bounded tail; infinity if fewer than five values are
        left, and NaN if none is.
    """
    values = exceedances.double()
    left = (values > 0).sum(1)
    found = torch.where(left == 0, math.nan, math.inf).double()
    for n in left[left >= 5].unique().tolist():
        rows = (left == n).nonzero().flatten()
        points = 30 + int(math.sqrt(n))
        limit = allowed_bytes(max_bytes, values.device)
        step = max(1, limit // (n * points * _BYTES))
        for some in rows.split(step):
            largest = values[some].topk(n, dim=1).values
            found[some] = _fitted(largest, points)
    return found


def _fitted(values: Tensor, points: int) -> Tensor:
    ordered = values.sort(dim=1).values
    n = values.shape[1]
    largest, quartile = ordered[:, -1:], ordered[:, int(n / 4 + 0.5) - 1 :][:, :1]
    grid = torch.arange(1, points + 1, dtype=torch.float64, device=values.device)
    theta = 1 / largest + (1 - (points / (grid - 0.5)).sqrt()) / (3 * quartile)
    k = torch.log1p(-theta[:, :, None] * ordered[:, None]).mean(-1)
    likelihood = n * ((-theta / k).log() - k - 1)
    weights = torch.softmax(likelihood, dim=1)
    best = (theta * weights).sum(1)
    fitted = torch.log1p(-best[:, None] * ordered).mean(1)
    drawn = (n * fitted + 10 * 0.5) / (n + 10)
    return torch.where(torch.isfinite(drawn), drawn, math.inf)


# Weights that differ by less are equal: more than float32 rounds, and too little to matter.
_EQUAL = 1e-3
# Four tensors of doubles at once.
_BYTES = 32


def trusted_below(num_particles: int) -> float:
    """The largest k for which an estimate with this number of draws is reliable, at most 0.7.

    References:
        Pareto Smoothed Importance Sampling (A. Vehtari, D. Simpson, A. Gelman, Y. Yao, J. Gabry,
        2024, section 3), https://arxiv.org/abs/1507.02646
    """
    return min(1 - 1 / math.log10(max(num_particles, 11)), 0.7)
