"""The encoder of an autoencoder: a point for each datum; denoising and contractive as options."""

import math
from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pvae.nn import Flatten

__all__ = ["Point"]


class Point(nn.Module):
    """A point from a network with one sigmoid hidden layer.

    q(z | x) = delta(z - W2 sigmoid(W1 x + b1) - b2)

    Its site is "z", `(batch, z_dim)`, in the plate "data". In training, x may be corrupted before
    it is encoded (denoising), and the squared norm of the encoder's Jacobian may be penalized
    (contractive).

    References:
        Extracting and Composing Robust Features with Denoising Autoencoders (Vincent, Larochelle,
        Bengio and Manzagol, 2008), https://doi.org/10.1145/1390156.1390294.
        Contractive Auto-Encoders: Explicit Invariance During Feature Extraction (Rifai, Vincent,
        Muller, Glorot and Bengio, 2011), https://icml.cc/2011/papers/455_icmlpaper.pdf. There the
        hidden layer is the code; here a linear layer follows it.

    Args:
        x_shape: shape of one datum; images are `(height, width)` or `(channels, height, width)`.
        z_dim: size of the code, at least 1.
        hidden: width of the hidden layer.
        noise: standard deviation of Gaussian noise on x in training.
        dropped: probability with which each element of x is set to 0 in training.
        contraction: weight, in nats per datum, of the squared norm of dz / dx in training.

    Raises:
        ValueError: if a size is below 1, or an option is out of its range.

    Example:
        >>> z = Point(x_shape=(8, 8), z_dim=2, hidden=16)(torch.zeros(5, 8, 8))
    """

    def __init__(
        self,
        *,
        x_shape: Sequence[int] = (28, 28),
        z_dim: int = 20,
        hidden: int = 400,
        noise: float = 0.0,
        dropped: float = 0.0,
        contraction: float = 0.0,
    ) -> None:
        super().__init__()
        sizes = (*x_shape, z_dim, hidden) if isinstance(hidden, int) else (0,)
        if min(sizes) < 1 or noise < 0 or contraction < 0 or not 0 <= dropped < 1:
            raise ValueError(
                f"Point got x_shape={tuple(x_shape)}, z_dim={z_dim}, hidden={hidden}, "
                f"noise={noise}, dropped={dropped}, contraction={contraction}: expected sizes of "
                "at least 1, one hidden layer, weights of 0 or more, and dropped below 1"
            )
        self.noise, self.dropped, self.contraction = noise, dropped, contraction
        self.flatten = Flatten(tuple(x_shape))
        self.hidden = nn.Linear(math.prod(x_shape), hidden)
        self.code = nn.Linear(hidden, z_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Run the program q(z | x).

        Args:
            x: a batch of data, shape `(batch, *x_shape)`.

        Returns:
            The value of site "z", shape `(batch, z_dim)`.
        """
        pyro.module("guide", self)
        if self.training and self.noise:
            x = x + self.noise * torch.randn_like(x)
        if self.training and self.dropped:
            x = x * (torch.rand_like(x) >= self.dropped)
        with pyro.plate("data", len(x)):
            h = self.hidden(self.flatten(x)).sigmoid()
            if self.training and self.contraction:
                # Factors of a guide count as log q, which the bound subtracts.
                penalty = self.contraction * self.squared_jacobian(h)
                pyro.factor("contraction", penalty, has_rsample=True)
            z: Tensor = pyro.sample("z", dist.Delta(self.code(h), event_dim=1))
        return z

    def squared_jacobian(self, h: Tensor) -> Tensor:
        """The squared Frobenius norm of dz / dx, shape `(batch,)`.

        Args:
            h: values of the hidden layer, shape `(batch, hidden)`.
        """
        # dz / dx = W2 D W1 with D = diag(h (1 - h)): its norm is d^T (W2^T W2 * W1 W1^T) d.
        inner = (self.code.weight.mT @ self.code.weight) * (
            self.hidden.weight @ self.hidden.weight.mT
        )
        slopes = h * (1 - h)
        return ((slopes @ inner) * slopes).sum(-1)
