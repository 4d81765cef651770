"""The Gaussian recognition network with a full covariance."""

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pvae.nn import encoder, positive

__all__ = ["FullRank"]


class FullRank(nn.Module):
    """A Gaussian whose covariance's Cholesky factor comes from a network.

    q(z | x) = N(z; loc(x), L(x) L(x)^T), L lower triangular with a positive diagonal

    Its site is "z", `(batch, z_dim)`, in the plate "data". Network outputs of 0 correspond to the
    prior's covariance, I; the diagonal of L stays above 1e-5.

    References:
        Automatic Differentiation Variational Inference (Kucukelbir et al., 2016),
        https://arxiv.org/abs/1603.00788, for the family; here its parameters come from a network.

    Args:
        x_shape: shape of one datum; images are `(height, width)` or `(channels, height, width)`.
        z_dim: number of latent variables, at least 1.
        hidden: width of the one hidden layer, or widths of each, in the order of the data's path.
        network: "mlp", fully connected, or "conv", convolutional with those hidden layers after
            the convolutions.

    Raises:
        ValueError: if sizes do not fit, or the network is unknown.

    Example:
        >>> import torch
        >>> z = FullRank(x_shape=(8, 8), z_dim=2, hidden=16)(torch.zeros(5, 8, 8))
    """

    rows: Tensor
    columns: Tensor

    def __init__(
        self,
        *,
        x_shape: Sequence[int] = (28, 28),
        z_dim: int = 20,
        hidden: int | Sequence[int] = 400,
        network: str = "mlp",
    ) -> None:
        super().__init__()
        self.z_dim = z_dim
        outputs = 2 * z_dim + z_dim * (z_dim - 1) // 2
        self.encoder = encoder(network, x_shape, outputs, hidden=hidden)
        rows, columns = torch.tril_indices(z_dim, z_dim, offset=-1)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Run the program q(z | x).

        Args:
            x: a batch of data, shape `(batch, *x_shape)`.

        Returns:
            The value of site "z", shape `(batch, z_dim)`.
        """
        pyro.module("guide", self)
        with pyro.plate("data", len(x)):
            loc, scale_tril = self._parameters_of(x)
            z: Tensor = pyro.sample("z", dist.MultivariateNormal(loc, scale_tril=scale_tril))
        return z

    def _parameters_of(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """loc, `(batch, z_dim)`, and the Cholesky factor, `(batch, z_dim, z_dim)`."""
        loc, raw, below = self.encoder(x).split([self.z_dim, self.z_dim, len(self.rows)], -1)
        scale_tril = torch.diag_embed(positive(raw))
        # A row sums up to z_dim of these: divided, they let z start near the prior's scale.
        scale_tril[..., self.rows, self.columns] = below / self.z_dim**0.5
        return loc, scale_tril
