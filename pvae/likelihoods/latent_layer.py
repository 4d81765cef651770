"""A layer of latent variables: from a network's output to the distribution of the layer."""

from collections.abc import Sequence

import pyro.distributions as dist
from pyro.distributions import TorchDistribution
from torch import Tensor

from pvae.nn import positive

__all__ = ["LatentLayer"]

# Logit that binary units start at: VIMCO learns MNIST several times faster from codes in which few
# units are on.
_REST = -2.0


class LatentLayer:
    """The kind of the latent layers of a Helmholtz machine.

    Gaussian layers are N(loc, scale^2), with loc and scale from the network's output, and scale 1
    where the output is 0. Bernoulli layers have the values 0 and 1 and the output as logits, which
    start near -2: each unit is on for one datum in eight.

    Args:
        kind: "gaussian" or "bernoulli".
        dims: numbers of latent variables by layer, each at least 1.

    Attributes:
        outputs: numbers that a network returns per latent variable.
        out_bias: initial bias of a network's last layer, or None for torch's own.

    Raises:
        ValueError: if the kind is unknown, or a size is out of range.

    Example:
        >>> import torch
        >>> layer = LatentLayer("gaussian", (6, 4))
        >>> z = layer(torch.zeros(5, layer.outputs * 4))
        >>> z.batch_shape, z.event_shape
        (torch.Size([5]), torch.Size([4]))
    """

    def __init__(self, kind: str, dims: Sequence[int]) -> None:
        if not dims or any(dim < 1 for dim in dims):
            raise ValueError(f"dims is {tuple(dims)}; expected one or more sizes of at least 1")
        if kind not in ("gaussian", "bernoulli"):
            raise ValueError(f"unknown latent {kind!r}; choose one of ['gaussian', 'bernoulli']")
        self.kind = kind
        self.outputs = 2 if kind == "gaussian" else 1
        self.out_bias = None if kind == "gaussian" else _REST

    @property
    def rest(self) -> float:
        """Initial logit of a binary unit."""
        return _REST

    def __call__(self, output: Tensor) -> TorchDistribution:
        """The distribution of a layer.

        Args:
            output: of a network, shape `(*batch, outputs * dim)`.

        Returns:
            A distribution of batch shape `batch` and event shape `(dim,)`.
        """
        if self.kind == "bernoulli":
            layer: TorchDistribution = dist.Bernoulli(logits=output).to_event(1)
        else:
            loc, raw = output.chunk(2, -1)
            layer = dist.Normal(loc, positive(raw)).to_event(1)
        return layer
