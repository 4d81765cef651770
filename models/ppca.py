"""Probabilistic PCA and factor analysis: the linear models, whose answers are exact."""

import math
from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pvae.nn import positive

__all__ = ["PPCA"]

_NOISES = ("isotropic", "diagonal")


class PPCA(nn.Module):
    """A linear decoder with Gaussian noise: probabilistic PCA, or factor analysis.

    p(x, z) = N(z; 0, I) N(x; W z + b, diag(scale)^2)

    Its sites are "z", `(batch, z_dim)`, and "x", `(batch, *x_shape)`, in the plate "data".
    Evidence, posterior and maximum likelihood have closed forms: `log_evidence`, `posterior`, the
    guide `exact_guide`, and `em_step`.

    References:
        Probabilistic Principal Component Analysis (Tipping and Bishop, 1999),
        https://doi.org/10.1111/1467-9868.00196.
        EM algorithms for ML factor analysis (Rubin and Thayer, 1982),
        https://doi.org/10.1007/BF02293851.

    Args:
        x_shape: shape of one datum.
        z_dim: number of latent variables, at least 1.
        noise: "isotropic", one scale for all dimensions (probabilistic PCA), or "diagonal", one for
            each (factor analysis).

    Raises:
        ValueError: if z_dim is below 1, or the noise is unknown.

    Defaults:
        guide: full_rank
        data: digits

    Example:
        >>> import torch
        >>> model, x = PPCA(x_shape=(5,), z_dim=2), torch.randn(100, 5)
        >>> for _ in range(50):
        ...     model.em_step(x)
        >>> model.log_evidence(x).shape  # nats
        torch.Size([100])
    """

    def __init__(
        self, *, x_shape: Sequence[int] = (28, 28), z_dim: int = 20, noise: str = "isotropic"
    ) -> None:
        super().__init__()
        if noise not in _NOISES:
            raise ValueError(f"unknown noise {noise!r}: give one of {', '.join(_NOISES)}")
        if z_dim < 1:
            raise ValueError(f"PPCA got z_dim={z_dim}: expected sizes of at least 1")
        self.x_shape, self.z_dim, self.noise = tuple(x_shape), z_dim, noise
        size = math.prod(self.x_shape)
        self.weight = nn.Parameter(torch.randn(size, z_dim) / z_dim**0.5)
        self.bias = nn.Parameter(torch.zeros(size))
        self.raw = nn.Parameter(torch.zeros(1 if noise == "isotropic" else size))

    def forward(self, x: Tensor) -> Tensor:
        """Run the program p(x, z) with x observed.

        Args:
            x: a batch of data, shape `(batch, *x_shape)`.

        Returns:
            The value of site "x": the data, or a draw where a handler hides them.
        """
        pyro.module("model", self)
        zeros = self.weight.new_zeros(self.z_dim)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(zeros, zeros + 1).to_event(1))
            loc = (z @ self.weight.mT + self.bias).unflatten(-1, self.x_shape)
            fn = dist.Normal(loc, self.scale.view(self.x_shape)).to_event(len(self.x_shape))
            value: Tensor = pyro.sample("x", fn, obs=x)
        return value

    @property
    def scale(self) -> Tensor:
        """The scale of the noise, one for each dimension of x, flat."""
        return positive(self.raw, floor=1e-4).expand_as(self.bias)

    def log_evidence(self, x: Tensor) -> Tensor:
        """log p(x), shape `(rows,)`, in nats.

        Args:
            x: data, shape `(rows, *x_shape)`.
        """
        fn = dist.LowRankMultivariateNormal(self.bias, self.weight, self.scale**2)
        evidence: Tensor = fn.log_prob(x.flatten(1))
        return evidence

    def posterior(self, x: Tensor) -> dist.MultivariateNormal:
        """p(z | x), of batch shape `(rows,)` and event shape `(z_dim,)`.

        Args:
            x: data, shape `(rows, *x_shape)`.
        """
        scaled = self.weight / self.scale[:, None] ** 2
        identity = torch.eye(self.z_dim, dtype=scaled.dtype, device=scaled.device)
        precision = identity + self.weight.mT @ scaled
        loc = torch.linalg.solve(precision, ((x.flatten(1) - self.bias) @ scaled).mT).mT
        return dist.MultivariateNormal(loc, precision_matrix=precision)

    def exact_guide(self, x: Tensor) -> Tensor:
        """The guide that is the posterior: with it the bound is the evidence.

        Args:
            x: a batch of data, shape `(batch, *x_shape)`.

        Returns:
            The value of site "z", shape `(batch, z_dim)`.
        """
        pyro.module("model", self)
        with pyro.plate("data", len(x)):
            z: Tensor = pyro.sample("z", self.posterior(x))
        return z

    @torch.no_grad()
    def em_step(self, x: Tensor) -> None:
        """One step of expectation maximization, which never lowers the evidence of x.

        Args:
            x: all data, shape `(rows, *x_shape)`.
        """
        self.bias.copy_(x.flatten(1).mean(0))  # its maximum likelihood, whatever the others are
        centred, q = x.flatten(1) - self.bias, self.posterior(x)
        second = q.covariance_matrix.sum(0) + q.mean.mT @ q.mean
        across = centred.mT @ q.mean
        self.weight.copy_(torch.linalg.solve(second, across.mT).mT)
        variance = (centred**2).mean(0) - (self.weight * across).sum(1) / len(x)
        if self.noise == "isotropic":
            variance = variance.mean(0, keepdim=True)
        scale = variance.clamp(min=1.01e-4**2).sqrt() - 1e-4
        self.raw.copy_(torch.expm1(scale).log() - math.log(math.expm1(1 - 1e-4)))
