"""Fully connected and convolutional networks for encoders and decoders; no Pyro."""

import difflib
import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

__all__ = ["MLP", "ConvDecoder", "ConvEncoder", "decoder", "encoder", "positive"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "leaky_relu": nn.LeakyReLU,
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}
_NETWORKS = ("mlp", "conv")


class MLP(nn.Module):
    """Multilayer perceptron over the last dimension, linear at the end.

    Args:
        in_features: size of the input, at least 1.
        hidden: width of the one hidden layer, or widths of each; `()` is a linear map.
        out_features: size of the output, at least 1.
        activation: name of the nonlinearity after each hidden layer.

    Example:
        >>> MLP(784, (400, 200), 20)(torch.zeros(5, 3, 784)).shape
        torch.Size([5, 3, 20])
    """

    def __init__(
        self,
        in_features: int,
        hidden: int | Sequence[int],
        out_features: int,
        *,
        activation: str = "silu",
    ) -> None:
        super().__init__()
        widths = (hidden,) if isinstance(hidden, int) else tuple(hidden)
        sizes = (in_features, *widths, out_features)
        if any(size < 1 for size in sizes):
            raise ValueError(
                f"MLP got in_features={in_features}, hidden={hidden}, out_features={out_features}; "
                "expected sizes of at least 1"
            )
        _check_name("activation", activation, tuple(_ACTIVATIONS))
        layers: list[nn.Module] = []
        for size, next_size in pairwise(sizes):
            layers += [nn.Linear(size, next_size), _ACTIVATIONS[activation]()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        """Map `(*batch, in_features)` to `(*batch, out_features)`."""
        y: Tensor = self.layers(x)
        return y


class ConvEncoder(nn.Module):
    """Images of any size -> features: convolutions of stride 2, then an MLP.

    Args:
        x_shape: `(height, width)` or `(channels, height, width)`.
        out_features: size of the output, at least 1.
        channels: channels after each convolution; each halves height and width, rounded up.
        hidden: widths of the fully connected hidden layers after the convolutions.
        activation: name of the nonlinearity.

    Example:
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
        self.x_shape = _checked_shape("conv", x_shape)
        _check_name("activation", activation, tuple(_ACTIVATIONS))
        self.image_shape = (math.prod(self.x_shape[:-2]), *self.x_shape[-2:])
        widths = (self.image_shape[0], *channels)
        layers: list[nn.Module] = []
        for width, next_width in pairwise(widths):
            layers.append(nn.Conv2d(width, next_width, 3, stride=2, padding=1))
            layers.append(_ACTIVATIONS[activation]())
        self.convolutions = nn.Sequential(*layers)
        features = widths[-1] * math.prod(_sizes(self.image_shape[1:], len(channels))[-1])
        self.mlp = MLP(features, hidden, out_features, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(*batch, *x_shape)` to `(*batch, out_features)`."""
        batch = _batch_shape(x, self.x_shape)
        features = self.convolutions(x.reshape(-1, *self.image_shape))
        y: Tensor = self.mlp(features.flatten(1))
        return y.reshape(*batch, y.shape[-1])


class ConvDecoder(nn.Module):
    """Features -> images of any size: an MLP, then transposed convolutions of stride 2.

    Args:
        in_features: size of the input, at least 1.
        out_shape: `(..., height, width)`; what stands before height and width are channels.
        channels: channels as of a `ConvEncoder`, from the image inwards.
        hidden: widths of the fully connected hidden layers before the convolutions.
        activation: name of the nonlinearity.

    Example:
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
        _check_name("activation", activation, tuple(_ACTIVATIONS))
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
            layers += [_ACTIVATIONS[activation](), up]
        self.convolutions = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        """Map `(*batch, in_features)` to `(*batch, *out_shape)`."""
        features = self.mlp(z).reshape(-1, *self.image_shape)
        y: Tensor = self.convolutions(features)
        return y.reshape(*z.shape[:-1], *self.out_shape)


class _MLPEncoder(nn.Module):
    """An MLP on flattened x."""

    def __init__(
        self, x_shape: tuple[int, ...], out_features: int, hidden: int | Sequence[int]
    ) -> None:
        super().__init__()
        self.x_shape = x_shape
        self.mlp = MLP(math.prod(x_shape), hidden, out_features)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(*batch, *x_shape)` to `(*batch, out_features)`."""
        batch = _batch_shape(x, self.x_shape)
        y: Tensor = self.mlp(x.reshape(*batch, math.prod(self.x_shape)))
        return y


def encoder(
    network: str, x_shape: Sequence[int], out_features: int, *, hidden: int | Sequence[int]
) -> nn.Module:
    """Build the network from x, `(*batch, *x_shape)`, to `(*batch, out_features)`.

    Args:
        network: "mlp" (any shape of x) or "conv" (images).
        x_shape: shape of one datum.
        out_features: size of the output, at least 1.
        hidden: width or widths of the fully connected hidden layers.

    Returns:
        The network.

    Raises:
        ValueError: at an unknown network, or one that does not suit the shape.
    """
    shape = _checked_shape(network, x_shape)
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
    """Build the network from z, `(*batch, in_features)`, to `(*batch, outputs, *x_shape)`.

    Args:
        network: "mlp" (any shape of x) or "conv" (images).
        in_features: size of z, at least 1.
        x_shape: shape of one datum.
        outputs: how many numbers the likelihood takes per dimension of x.
        hidden: width or widths of the fully connected hidden layers.

    Returns:
        The network.

    Raises:
        ValueError: at an unknown network, or one that does not suit the shape.
    """
    out_shape = (outputs, *_checked_shape(network, x_shape))
    if network == "conv":
        return ConvDecoder(in_features, out_shape, hidden=hidden)
    mlp = MLP(in_features, hidden, math.prod(out_shape))
    return nn.Sequential(mlp, nn.Unflatten(-1, out_shape))


def positive(raw: Tensor, *, floor: float = 1e-5) -> Tensor:
    """Map any real number to a scale above `floor`, 0 to 1: a shifted softplus.

    Args:
        raw: output of a network, any shape.
        floor: smallest value, in (0, 1).

    Returns:
        Scales of the same shape.
    """
    # Linear above, so that one wild output costs no overflow as exp would.
    return floor + softplus(raw + math.log(math.expm1(1 - floor)))


def _check_name(kind: str, name: str, known: Sequence[str]) -> None:
    """Refuse a name that is not known, with the nearest."""
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        nearest = f"nearest: {near[0]!r}; " if near else ""
        raise ValueError(f"unknown {kind} {name!r}; {nearest}choose one of {list(known)}")


def _checked_shape(network: str, x_shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape of x as a tuple, if the network can take it."""
    _check_name("network", network, _NETWORKS)
    shape = tuple(x_shape)
    if not shape or any(size < 1 for size in shape):
        raise ValueError(f"x_shape is {shape}; expected one or more sizes of at least 1")
    if network == "conv" and len(shape) not in (2, 3):
        raise ValueError(
            f"network 'conv' got x_shape {shape}; expected (height, width) or "
            "(channels, height, width): use network 'mlp' for data that are no images"
        )
    return shape


def _batch_shape(x: Tensor, x_shape: tuple[int, ...]) -> torch.Size:
    """Return what stands before x_shape in the shape of x."""
    if tuple(x.shape[-len(x_shape) :]) != x_shape:
        raise ValueError(
            f"encoder got x of shape {tuple(x.shape)}; expected (*batch, *x_shape) with x_shape "
            f"{x_shape}: build it with the x_shape of the data"
        )
    return x.shape[: -len(x_shape)]


def _sizes(size: Sequence[int], times: int) -> list[tuple[int, ...]]:
    """Height and width before and after each halving, rounded up."""
    sizes = [tuple(size)]
    for _ in range(times):
        sizes.append(tuple((n + 1) // 2 for n in sizes[-1]))
    return sizes
