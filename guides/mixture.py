"""The recognition network with a mixture of Gaussians."""

from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from pvae.nn import encoder, positive

__all__ = ["Mixture"]


class Mixture(nn.Module):
    """A mixture of Gaussians with independent dimensions, all from a network.

    q(z | x) = sum_k w_k(x) N(z; loc_k(x), diag(scale_k(x))^2)

    Its site is "z", `(batch, z_dim)`, in the plate "data". In training the component is an
    auxiliary site, marked for enumeration: `TraceEnum_ELBO` sums over it, so that the gradients of
    the weights are exact and those of the rest pathwise, at the cost of one pass of the model for
    each component. In eval mode the site is the mixture itself.

    References:
        Multimodal posteriors as mixtures: Black box variational inference by summing out components
        (Roeder, Wu and Duvenaud, 2017; section 5), https://arxiv.org/abs/1703.09194.

    Args:
        x_shape: shape of one datum; images are `(height, width)` or `(channels, height, width)`.
        z_dim: number of latent variables, at least 1.
        components: number of components, at least 2.
        hidden: width of the one hidden layer, or widths of each, in the order of the data's path.
        network: "mlp" or "conv", as of `MeanField`.

    Raises:
        ValueError: if sizes do not fit, or the network is unknown.

    Example:
        >>> import torch
        >>> guide = Mixture(x_shape=(8, 8), z_dim=2, components=3, hidden=16).eval()
        >>> z = guide(torch.zeros(5, 8, 8))
    """

    def __init__(
        self,
        *,
        x_shape: Sequence[int] = (28, 28),
        z_dim: int = 20,
        components: int = 2,
        hidden: int | Sequence[int] = 400,
        network: str = "mlp",
    ) -> None:
        super().__init__()
        if components < 2:
            raise ValueError(
                f"Mixture got components={components}: give at least 2, or use MeanField"
            )
        self.z_dim, self.components = z_dim, components
        self.encoder = encoder(network, x_shape, components * (2 * z_dim + 1), hidden=hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Run the program q(z | x).

        Args:
            x: a batch of data, shape `(batch, *x_shape)`.

        Returns:
            The value of site "z", shape `(batch, z_dim)`.
        """
        pyro.module("guide", self)
        with pyro.plate("data", len(x)):
            output = self.encoder(x).unflatten(-1, (self.components, -1))
            loc, raw, logits = output.tensor_split([self.z_dim, 2 * self.z_dim], -1)
            weights = dist.Categorical(logits=logits.squeeze(-1))
            parts = dist.Normal(loc, positive(raw)).to_event(1)
            mixture = dist.MixtureSameFamily(weights, parts)
            if not self.training:
                value: Tensor = pyro.sample("z", mixture)
                return value
            how: Any = {"enumerate": "parallel", "is_auxiliary": True, "marginalized": True}
            chosen = pyro.sample("component", weights, infer=how)
            one = nn.functional.one_hot(chosen, self.components).to(loc)[..., None]
            fn = dist.Normal((loc * one).sum(-2), (positive(raw) * one).sum(-2)).to_event(1)
            z: Tensor = pyro.sample("z", fn)
            # log q(k) + log q(z | k) - log q(k | z) = log q(z): the sites before count too much.
            excess = mixture.log_prob(z) - fn.log_prob(z) - weights.log_prob(chosen)
            pyro.factor("mixture", excess, has_rsample=True)
        return z
