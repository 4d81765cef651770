"""The recognition network with a normalizing flow, which depends on x."""

from collections.abc import Sequence

import pyro
from pyro.contrib.zuko import ZukoToPyro
from torch import Tensor, nn

from pvae.nn import encoder, positive
from pvae.nn.flows import zuko

__all__ = ["Flow"]

_KINDS = ("iaf", "spline", "coupling")


class Flow(nn.Module):
    """A Gaussian with independent dimensions, transformed by a flow that reads features of x.

    z = f(loc(x) + scale(x) * noise; features(x))

    Its site is "z", `(batch, z_dim)`, in the plate "data". "iaf" are inverse autoregressive affine
    transformations, whose draws and their densities take one pass; "spline" are autoregressive
    rational-quadratic splines, in the same direction; "coupling" are affine coupling layers. The
    density at other values than its own draws takes z_dim passes (coupling: one).

    References:
        Improving Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016),
        https://arxiv.org/abs/1606.04934.
        Neural Spline Flows (Durkan et al., 2019), https://arxiv.org/abs/1906.04032.
        Density Estimation using Real NVP (Dinh et al., 2017), https://arxiv.org/abs/1605.08803.

    Args:
        x_shape: shape of one datum; images are `(height, width)` or `(channels, height, width)`.
        z_dim: number of latent variables, at least 2.
        kind: "iaf", "spline" or "coupling".
        transforms: number of transformations, at least 1; every other one reverses the order of z.
        flow_hidden: widths of the networks within each transformation.
        features: number of features of x that the transformations read.
        hidden: width of the one hidden layer, or widths of each, in the order of the data's path.
        network: "mlp", fully connected, or "conv", convolutional with those hidden layers after
            the convolutions.

    Raises:
        ValueError: if sizes do not fit, or the kind or network is unknown.

    Example:
        >>> import torch
        >>> z = Flow(x_shape=(8, 8), z_dim=3, hidden=16)(torch.zeros(5, 8, 8))
    """

    def __init__(
        self,
        *,
        x_shape: Sequence[int] = (28, 28),
        z_dim: int = 20,
        kind: str = "iaf",
        transforms: int = 2,
        flow_hidden: Sequence[int] = (64,),
        features: int = 32,
        hidden: int | Sequence[int] = 400,
        network: str = "mlp",
    ) -> None:
        super().__init__()
        if kind not in _KINDS:
            raise ValueError(f"unknown kind {kind!r} of flow: give one of {', '.join(_KINDS)}")
        if z_dim < 2 or transforms < 1:
            raise ValueError(
                f"Flow got z_dim={z_dim} and transforms={transforms}: give at least 2 and 1, or "
                "use MeanField"
            )
        self.z_dim = z_dim
        self.encoder = encoder(network, x_shape, 2 * z_dim + features, hidden=hidden)
        options = {"context": features, "transforms": transforms, "hidden_features": flow_hidden}
        if kind == "coupling":
            made = zuko.flows.MAF(z_dim, passes=2, **options)
        else:
            made = (zuko.flows.NSF if kind == "spline" else zuko.flows.MAF)(z_dim, **options)
        # Zuko's transformations lead from z to noise: as they are, draws would take z_dim passes.
        self.transforms = nn.ModuleList(
            zuko.lazy.LazyInverse(part) for part in made.transform.transforms
        )

    def forward(self, x: Tensor) -> Tensor:
        """Run the program q(z | x).

        Args:
            x: a batch of data, shape `(batch, *x_shape)`.

        Returns:
            The value of site "z", shape `(batch, z_dim)`.
        """
        pyro.module("guide", self)
        with pyro.plate("data", len(x)):
            loc, raw, features = self.encoder(x).tensor_split([self.z_dim, 2 * self.z_dim], -1)
            base = zuko.distributions.DiagNormal(loc, positive(raw))
            steps = [part(features) for part in self.transforms]
            flow = zuko.distributions.NormalizingFlow(
                zuko.transforms.ComposedTransform(*steps), base
            )
            z: Tensor = pyro.sample("z", ZukoToPyro(flow))
        return z
