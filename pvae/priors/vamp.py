"""The VampPrior: a mixture of posteriors of trained pseudo-inputs."""

from collections.abc import Sequence

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pvae.nn import encoder, positive
from pvae.priors.diagonal_mixture import DiagonalMixture
from pvae.priors.prior import Prior

__all__ = ["Vamp"]


class Vamp(Prior):
    """1/K sum_k N(z; loc(u_k), diag(scale(u_k))^2) with trained pseudo-inputs u_k in [0, 1].

    In the paper loc and scale are the guide's: give its network as `network`,
    `Vamp(20, network=guide.encoder)` for `MeanField`, or call `join_guide`, as the command line
    does. Without one the prior has a network of its own.

    References:
        VAE with a VampPrior (J. M. Tomczak, M. Welling, 2018), https://arxiv.org/abs/1705.07120.

    Args:
        z_dim: number of latent variables, at least 1.
        components: number K of pseudo-inputs, at least 1.
        x_shape: shape of one datum.
        hidden: width or widths of the prior's own network.
        network: from data `(K, *x_shape)` to `(K, 2 * z_dim)`, loc and the raw scale, instead.

    Raises:
        ValueError: if there is no component.

    Example:
        >>> prior = Vamp(2, components=5, x_shape=(8, 8), hidden=16)
        >>> prior.start_at(torch.rand(100, 8, 8))
        >>> prior().log_prob(torch.zeros(7, 2)).shape  # nats
        torch.Size([7])
    """

    def __init__(
        self,
        z_dim: int,
        *,
        components: int = 50,
        x_shape: Sequence[int] = (28, 28),
        hidden: int | Sequence[int] = 400,
        network: nn.Module | None = None,
    ) -> None:
        super().__init__(z_dim)
        if components < 1:
            raise ValueError(f"Vamp got components={components}: give at least 1")
        if network is None:
            network = encoder("mlp", x_shape, 2 * z_dim, hidden=hidden)
        self.network = network
        self.logits = nn.Parameter(torch.randn(components, *x_shape))

    def join_guide(self, guide: nn.Module) -> None:
        """Use the guide's `encoder`, if it has one with the outputs that are needed."""
        encoder = getattr(guide, "encoder", None)
        if not isinstance(encoder, nn.Module):
            return
        with torch.no_grad():
            try:
                outputs = encoder(self.logits.sigmoid())
            except (RuntimeError, ValueError, TypeError):
                return  # it reads something else
        if outputs.shape == (len(self.logits), 2 * self.z_dim):
            self.network = encoder

    def start_at(self, x: Tensor) -> None:
        """Set the pseudo-inputs to rows of data, drawn at random, slightly inside (0, 1)."""
        rows = torch.randint(len(x), (len(self.logits),), device=x.device)
        chosen = x[rows].to(self.logits).clamp(0.01, 0.99)
        with torch.no_grad():
            self.logits.copy_(chosen.logit())

    def forward(self) -> TorchDistribution:
        """Return the distribution."""
        loc, raw = self.network(self.logits.sigmoid()).chunk(2, -1)
        return DiagonalMixture(loc.new_zeros(len(loc)), loc, positive(raw))
