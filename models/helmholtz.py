"""The generative model of a Helmholtz machine: layers of latent variables, each above the next."""

import math
from collections.abc import Sequence
from functools import partial

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pvae import likelihoods
from pvae.likelihoods import LatentLayer
from pvae.nn import MLP

__all__ = ["HelmholtzMachine"]


class HelmholtzMachine(nn.Module):
    """Layers of latent variables, sampled from the top down, decoded by a network.

    p(x, z1, ..., zM) = p(zM) prod_{m < M} p(z_m | z_{m+1}) p(x | decoder(z1))

    Gaussian layers are p(zM) = N(0, I) and p(z_m | z_{m+1}) = N(loc(z_{m+1}), scale(z_{m+1})^2),
    with scale 1 at network outputs of 0. Bernoulli layers have the values 0 and 1, learned
    logits at the top, and logits from a network below: with `hidden=()` and a Bernoulli likelihood,
    a sigmoid belief network. They start near logits of -2, each unit on for one datum in eight.

    Its sites are "zM", ..., "z1", `(batch, dims[m - 1])`, and "x", `(batch, *x_shape)`, in the
    plate "data". A guide may share the generative path through `prior`.

    References:
        Connectionist Learning of Belief Networks (R. M. Neal, 1992),
        https://doi.org/10.1016/0004-3702(92)90065-6.
        The Helmholtz Machine (P. Dayan, G. E. Hinton, R. M. Neal, R. S. Zemel, 1995),
        https://doi.org/10.1162/neco.1995.7.5.889.
        Stochastic Backpropagation and Approximate Inference in Deep Generative Models (D. J.
        Rezende, S. Mohamed, D. Wierstra, 2014), https://arxiv.org/abs/1401.4082, for Gaussian
        layers.

    Args:
        x_shape: shape of one datum; images are `(height, width)` or `(channels, height, width)`.
        dims: numbers of latent variables by layer, z1, the nearest to the data, first.
        latent: "gaussian" or "bernoulli", the kind of every layer.
        hidden: width of the one hidden layer of each network, or widths of each; `()` makes every
            network linear.
        activation: name of the nonlinearity after each hidden layer.
        norm: "batch", "weight" or None, as of `pvae.nn.HiddenLayers`.
        residual: whether each hidden layer adds its input to its output.
        likelihood: a name in `pvae.likelihoods.names`, a class, or an instance.
        levels: grey levels of the data, used by the likelihoods over grey levels alone.

    Raises:
        ValueError: if sizes do not fit, or a kind of layer, likelihood or network is unknown.

    Defaults:
        guide: bottom_up
        data: digits

    Example:
        >>> import torch
        >>> model = HelmholtzMachine(x_shape=(8, 8), dims=(6, 4, 2), hidden=16)
        >>> x = model(torch.zeros(5, 8, 8))
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
        likelihood: str | type[likelihoods.Likelihood] | likelihoods.Likelihood = "bernoulli",
        levels: int | None = None,
    ) -> None:
        super().__init__()
        self.x_shape, self.dims, self.latent = tuple(x_shape), tuple(dims), latent
        self.layer = LatentLayer(latent, self.dims)
        self.likelihood = likelihoods.get(likelihood, x_shape, levels=levels)

        network = partial(MLP, hidden=hidden, activation=activation, norm=norm, residual=residual)
        self.layers = nn.ModuleList(
            network(above, out_features=self.layer.outputs * dim, out_bias=self.layer.out_bias)
            for dim, above in zip(self.dims[:-1], self.dims[1:], strict=True)
        )
        if latent == "bernoulli":
            self.top_logits = nn.Parameter(torch.full((self.dims[-1],), self.layer.rest))
        out_shape = (self.likelihood.outputs, *self.x_shape)
        self.decoder = nn.Sequential(
            network(self.dims[0], out_features=math.prod(out_shape)), nn.Unflatten(-1, out_shape)
        )

    def prior(self, m: int, above: Tensor | None = None) -> TorchDistribution:
        """The distribution of one layer given the layer above it; registers nothing.

        Args:
            m: number of the layer, 1 to M.
            above: the value of layer m + 1, shape `(*batch, dims[m])`; of no use where m is M.

        Returns:
            p(z_m | z_{m+1}), of batch shape `batch` and event shape `(dims[m - 1],)`; p(zM) has no
            batch shape.

        Raises:
            ValueError: if there is no such layer, or `above` is missing.
        """
        if not 1 <= m <= len(self.dims):
            raise ValueError(f"there is no layer {m}; layers are 1 to {len(self.dims)}")
        if m < len(self.dims) and above is None:
            raise ValueError(f"layer {m} depends on layer {m + 1}: give its value")
        if m < len(self.dims):
            return self.layer(self.layers[m - 1](above))
        if self.latent == "bernoulli":
            return self.layer(self.top_logits)
        # On the device and of the type of the parameters.
        zeros = next(self.parameters()).new_zeros(self.dims[-1])
        standard: TorchDistribution = dist.Normal(zeros, zeros + 1).to_event(1)
        return standard

    def forward(self, x: Tensor) -> Tensor:
        """Run the program p(x, z1, ..., zM) with x observed.

        Args:
            x: a batch of data, shape `(batch, *x_shape)`.

        Returns:
            The value of site "x": the data, or a draw where a handler hides them.

        Raises:
            ValueError: if x does not have the shape that the model was built for.
        """
        if tuple(x.shape[1:]) != self.x_shape:
            raise ValueError(
                f"HelmholtzMachine got x of shape {tuple(x.shape)}; expected (batch, *x_shape) "
                f"with x_shape {self.x_shape}: build it with x_shape={tuple(x.shape[1:])}"
            )
        pyro.module("model", self)
        with pyro.plate("data", len(x)):
            z: Tensor | None = None
            for m in range(len(self.dims), 0, -1):
                z = pyro.sample(f"z{m}", self.prior(m, z))
            value: Tensor = pyro.sample("x", self.likelihood(self.decoder(z)), obs=x)
        return value
