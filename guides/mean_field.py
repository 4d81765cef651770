"""The mean-field Gaussian recognition network."""

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from pvae.nn import encoder, positive

__all__ = ["MeanField"]


class MeanField(nn.Module):
    """A Gaussian with independent dimensions, from a network.

    q(z | x) = prod_d N(z_d; loc_d(x), scale_d(x)^2)

    Its site is "z", `(batch, z_dim)`, in the plate "data". Network outputs of 0 correspond to the
    prior's scale, 1; scales stay above 1e-5.

    References:
        Auto-Encoding Variational Bayes (Kingma and Welling, 2013), https://arxiv.org/abs/1312.6114.

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
        >>> z = MeanField(x_shape=(8, 8), z_dim=2, hidden=16)(torch.zeros(5, 8, 8))
    """

    def __init__(
        self,
        *,
        x_shape: Sequence[int] = (28, 28),
        z_dim: int = 20,
        hidden: int | Sequence[int] = 400,
        network: str = "mlp",
    ) -> None:
        super().__init__()
        self.encoder = encoder(network, x_shape, 2 * z_dim, hidden=hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Run the program q(z | x).

        Args:
            x: a batch of data, shape `(batch, *x_shape)`.

        Returns:
            The value of site "z", shape `(batch, z_dim)`.
        """
        pyro.module("guide", self)
        with pyro.plate("data", len(x)):
            loc, raw = self.encoder(x).chunk(2, -1)
            z: Tensor = pyro.sample("z", dist.Normal(loc, positive(raw)).to_event(1))
        return z
