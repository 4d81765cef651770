"""Encoders and decoders by name."""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from pvae.nn.convolutional import ConvDecoder, ConvEncoder
from pvae.nn.flatten import Flatten
from pvae.nn.fully_connected import MLP
from pvae.nn.validation import checked_shape

__all__ = ["decoder", "encoder"]


class _MLPEncoder(nn.Module):
    """An MLP on flattened x."""

    def __init__(
        self, x_shape: tuple[int, ...], out_features: int, hidden: int | Sequence[int]
    ) -> None:
        super().__init__()
        self.flatten = Flatten(x_shape)
        self.mlp = MLP(self.flatten.out_features, hidden, out_features)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(*batch, *x_shape)` to `(*batch, out_features)`."""
        y: Tensor = self.mlp(self.flatten(x))
        return y


def encoder(
    network: str, x_shape: Sequence[int], out_features: int, *, hidden: int | Sequence[int]
) -> nn.Module:
    """Build a network that maps x of shape `(*batch, *x_shape)` to `(*batch, out_features)`.

    Args:
        network: "mlp" (any shape of x) or "conv" (images).
        x_shape: shape of one datum.
        out_features: number of features of the output, at least 1.
        hidden: width or widths of the fully connected hidden layers.

    Returns:
        The network.

    Raises:
        ValueError: if the network is unknown, or does not suit the shape.

    Example:
        >>> import torch
        >>> encoder("mlp", (8, 8), 4, hidden=16)(torch.zeros(5, 8, 8)).shape
        torch.Size([5, 4])
    """
    shape = checked_shape(network, x_shape)
    if network == "conv":
        return ConvEncoder(shape, out_features, hidden=hidden)
    return _MLPEncoder(shape, out_features, hidden)


def decoder(
    network: str,
    in_features: int,
    x_shape: Sequence[int],
    *,
    outputs: int,
    hidden: int | Sequence[int],
) -> nn.Module:
    """Build a network that maps z of shape `(*batch, in_features)` to `(*batch, outputs,
    *x_shape)`.

    Args:
        network: "mlp" (any shape of x) or "conv" (images).
        in_features: number of features of z, at least 1.
        x_shape: shape of one datum.
        outputs: number of values that the likelihood takes per dimension of x.
        hidden: width or widths of the fully connected hidden layers.

    Returns:
        The network.

    Raises:
        ValueError: if the network is unknown, or does not suit the shape.

    Example:
        >>> import torch
        >>> decoder("mlp", 2, (8, 8), outputs=1, hidden=16)(torch.zeros(5, 2)).shape
        torch.Size([5, 1, 8, 8])
    """
    out_shape = (outputs, *checked_shape(network, x_shape))
    if network == "conv":
        return ConvDecoder(in_features, out_shape, hidden=hidden)
    mlp = MLP(in_features, hidden, math.prod(out_shape))
    return nn.Sequential(mlp, nn.Unflatten(-1, out_shape))
