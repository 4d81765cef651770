"""Convolutional networks over images of any size."""

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from pvae.nn.flatten import Flatten
from pvae.nn.fully_connected import MLP
from pvae.nn.validation import ACTIVATIONS, check_name, checked_shape

__all__ = ["ConvDecoder", "ConvEncoder"]


class ConvEncoder(nn.Module):
    """Images of any size -> features: convolutions of stride 2, then an MLP.

    Args:
        x_shape: `(height, width)` or `(channels, height, width)`.
        out_features: size of the output, at least 1.
        channels: channels after each convolution; each halves height and width, rounded up.
        hidden: widths of the fully connected hidden layers after the convolutions.
        activation: name of the nonlinearity.

    Example:
        >>> import torch
        >>> ConvEncoder((28, 20), 40)(torch.zeros(5, 3, 28, 20)).shape
        torch.Size([5, 3, 40])
    """

    def __init__(
        self,
        x_shape: Sequence[int],
        out_features: int,
        *,
        channels: Sequence[int] = (32, 64),
        hidden: int | Sequence[int] = 256,
        activation: str = "silu",
    ) -> None:
        super().__init__()
        self.x_shape = checked_shape("conv", x_shape)
        self.flatten = Flatten(self.x_shape)
        check_name("activation", activation, ACTIVATIONS)
        self.image_shape = (math.prod(self.x_shape[:-2]), *self.x_shape[-2:])
        widths = (self.image_shape[0], *channels)
        layers: list[nn.Module] = []
        for width, next_width in pairwise(widths):
            layers.append(nn.Conv2d(width, next_width, 3, stride=2, padding=1))
            layers.append(ACTIVATIONS[activation]())
        self.convolutions = nn.Sequential(*layers)
        features = widths[-1] * math.prod(_sizes(self.image_shape[1:], len(channels))[-1])
        self.mlp = MLP(features, hidden, out_features, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(*batch, *x_shape)` to `(*batch, out_features)`."""
        flat: Tensor = self.flatten(x)
        features = self.convolutions(flat.reshape(-1, *self.image_shape))
        y: Tensor = self.mlp(features.flatten(1))
        return y.reshape(*flat.shape[:-1], y.shape[-1])


class ConvDecoder(nn.Module):
    """Features -> images of any size: an MLP, then transposed convolutions of stride 2.

    Args:
        in_features: size of the input, at least 1.
        out_shape: `(..., height, width)`; what stands before height and width are channels.
        channels: channels as of a `ConvEncoder`, from the image inwards.
        hidden: widths of the fully connected hidden layers before the convolutions.
        activation: name of the nonlinearity.

    Example:
        >>> import torch
        >>> ConvDecoder(20, (2, 28, 20))(torch.zeros(5, 3, 20)).shape
        torch.Size([5, 3, 2, 28, 20])
    """

    def __init__(
        self,
        in_features: int,
        out_shape: Sequence[int],
        *,
        channels: Sequence[int] = (32, 64),
        hidden: int | Sequence[int] = 256,
        activation: str = "silu",
    ) -> None:
        super().__init__()
        self.out_shape = tuple(out_shape)
        if len(self.out_shape) < 2 or any(size < 1 for size in self.out_shape):
            raise ValueError(
                f"ConvDecoder got out_shape {self.out_shape}; expected (..., height, width) with "
                "sizes of at least 1"
            )
        check_name("activation", activation, ACTIVATIONS)
        widths = (math.prod(self.out_shape[:-2]), *channels)
        sizes = _sizes(self.out_shape[-2:], len(channels))
        self.image_shape = (widths[-1], *sizes[-1])
        self.mlp = MLP(in_features, hidden, math.prod(self.image_shape), activation=activation)
        layers: list[nn.Module] = []
        for i in reversed(range(len(channels))):
            # Kernel 3, stride 2 and padding 1 give 2 n - 1: one more row where the size is even.
            height, width = sizes[i]
            padding = ((height + 1) % 2, (width + 1) % 2)
            up = nn.ConvTranspose2d(
                widths[i + 1], widths[i], 3, stride=2, padding=1, output_padding=padding
            )
            layers += [ACTIVATIONS[activation](), up]
        self.convolutions = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        """Map `(*batch, in_features)` to `(*batch, *out_shape)`."""
        features = self.mlp(z).reshape(-1, *self.image_shape)
        y: Tensor = self.convolutions(features)
        return y.reshape(*z.shape[:-1], *self.out_shape)


def _sizes(size: Sequence[int], times: int) -> list[tuple[int, ...]]:
    """Height and width before and after each halving, rounded up."""
    sizes = [tuple(size)]
    for _ in range(times):
        sizes.append(tuple((n + 1) // 2 for n in sizes[-1]))
    return sizes
