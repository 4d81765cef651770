"""The Gaussian recognition network with a low-rank covariance."""

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from pvae.nn import encoder, positive

__all__ = ["LowRank"]


class LowRank(nn.Module):
    """A Gaussian whose covariance is diagonal plus a matrix of low rank, from a network.

    q(z | x) = N(z; loc(x), diag(scale(x))^2 + F(x) F(x)^T), F of shape (z_dim, rank)

    Its site is "z", `(batch, z_dim)`, in the plate "data". Network outputs of 0 correspond to the
    prior's covariance, I; scales stay above 1e-5.

    References:
        Gaussian variational approximation with a factor covariance structure (Ong, Nott and Smith,
        2018), https://arxiv.org/abs/1701.03069; here its parameters come from a network.

    Args:
        x_shape: shape of one datum; images are `(height, width)` or `(channels, height, width)`.
        z_dim: number of latent variables, at least 1.
        rank: number of columns of F, at least 1; z_dim - 1 or more give any covariance.
        hidden: width of the one hidden layer, or widths of each, in the order of the data's path.
        network: "mlp", fully connected, or "conv", convolutional with those hidden layers after
            the convolutions.

    Raises:
        ValueError: if sizes do not fit, or the network is unknown.

    Example:
        >>> import torch
        >>> z = LowRank(x_shape=(8, 8), z_dim=5, rank=2, hidden=16)(torch.zeros(5, 8, 8))
    """

    def __init__(
        self,
        *,
        x_shape: Sequence[int] = (28, 28),
        z_dim: int = 20,
        rank: int = 2,
        hidden: int | Sequence[int] = 400,
        network: str = "mlp",
    ) -> None:
        super().__init__()
        if rank < 1:
            raise ValueError(f"LowRank got rank={rank}: give at least 1, or use MeanField")
        self.z_dim, self.rank = z_dim, rank
        self.encoder = encoder(network, x_shape, z_dim * (2 + rank), hidden=hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Run the program q(z | x).

        Args:
            x: a batch of data, shape `(batch, *x_shape)`.

        Returns:
            The value of site "z", shape `(batch, z_dim)`.
        """
        pyro.module("guide", self)
        with pyro.plate("data", len(x)):
            sizes = [self.z_dim, self.z_dim, self.z_dim * self.rank]
            loc, raw, factor = self.encoder(x).split(sizes, -1)
            # A row has `rank` of these: divided, they let z start near the prior's scale.
            factor = factor.unflatten(-1, (self.z_dim, self.rank)) / self.rank**0.5
            fn = dist.LowRankMultivariateNormal(loc, factor, positive(raw) ** 2)
            z: Tensor = pyro.sample("z", fn)
        return z
