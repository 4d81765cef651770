"""The recognition network of a Helmholtz machine: from the data up, layer by layer."""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import pyro
from torch import Tensor, nn

from pvae.likelihoods import LatentLayer
from pvae.nn import MLP, Flatten

__all__ = ["BottomUp"]


class BottomUp(nn.Module):
    """Layers of latent variables in the order opposite to the model's, each from the one below.

    q(z1, ..., zM | x) = q(z1 | x) prod_{m > 1} q(z_m | z_{m-1})

    Gaussian layers are N(loc(.), scale(.)^2), with scale 1 at network outputs of 0. Bernoulli
    layers have the values 0 and 1 and logits from a network, which start near -2 like the model's.

    Its sites are "z1", ..., "zM", `(batch, dims[m - 1])`, in the plate "data".

    References:
        The Wake-Sleep Algorithm for Unsupervised Neural Networks (G. E. Hinton, P. Dayan,
        B. J. Frey, R. M. Neal, 1995), https://doi.org/10.1126/science.7761831.
        Importance Weighted Autoencoders (Y. Burda, R. Grosse, R. Salakhutdinov, 2015),
        https://arxiv.org/abs/1509.00519, for Gaussian layers.

    Args:
        x_shape: shape of one datum; images are `(height, width)` or `(channels, height, width)`.
        dims: numbers of latent variables by layer, z1, the nearest to the data, first.
        latent: "gaussian" or "bernoulli", the kind of every layer.
        hidden: width of the one hidden layer of each network, or widths of each; `()` makes every
            network linear.
        activation: name of the nonlinearity after each hidden layer.
        norm: "batch", "weight" or None, as of `pvae.nn.HiddenLayers`.
        residual: whether each hidden layer adds its input to its output.

    Raises:
        ValueError: if sizes do not fit, or a kind of layer or network is unknown.

    Example:
        >>> import torch
        >>> guide = BottomUp(x_shape=(8, 8), dims=(6, 4, 2), hidden=16)
        >>> top = guide(torch.zeros(5, 8, 8))
    """

    def __init__(
        self,
        *,
        x_shape: Sequence[int] = (28, 28),
        dims: Sequence[int] = (200, 100),
        latent: str = "gaussian",
        hidden: int | Sequence[int] = (),
        activation: str = "silu",
        norm: str | None = None,
        residual: bool = False,
    ) -> None:
        super().__init__()
        self.dims, self.latent = tuple(dims), latent
        self.layer = LatentLayer(latent, self.dims)
        self.flatten = Flatten(x_shape)
        network = partial(MLP, hidden=hidden, activation=activation, norm=norm, residual=residual)
        sizes = (self.flatten.out_features, *self.dims)
        self.layers = nn.ModuleList(
            network(size, out_features=self.layer.outputs * dim, out_bias=self.layer.out_bias)
            for size, dim in pairwise(sizes)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Run the program q(z1, ..., zM | x).

        Args:
            x: a batch of data, shape `(batch, *x_shape)`.

        Returns:
            The value of the top site, shape `(batch, dims[-1])`.
        """
        pyro.module("guide", self)
        value: Tensor = self.flatten(x)
        with pyro.plate("data", len(x)):
            for m, network in enumerate(self.layers, 1):
                value = pyro.sample(f"z{m}", self.layer(network(value)))
        return value
