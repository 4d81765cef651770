"""Fully connected networks over the last dimension: normalized, with skip connections, or plain."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from numbers import Integral

from torch import Tensor, nn
from torch.nn.functional import batch_norm
from torch.nn.utils.parametrizations import weight_norm

from pvae.nn.validation import ACTIVATIONS, check_name

__all__ = ["MLP", "HiddenLayers"]

_NORMS = ("batch", "weight")


class HiddenLayers(nn.Module):
    """The hidden layers of a multilayer perceptron, nonlinear at the end; without any, x itself.

    Each maps h to activation(norm(W h + b)), where batch normalization brings the bias; a residual
    one adds its input, taken through a linear map without bias where the widths differ.

    References:
        Batch Normalization (S. Ioffe, C. Szegedy, 2015), https://arxiv.org/abs/1502.03167.
        Weight Normalization (T. Salimans, D. P. Kingma, 2016), https://arxiv.org/abs/1602.07868.
        Deep Residual Learning for Image Recognition (K. He, X. Zhang, S. Ren, J. Sun, 2015),
        https://arxiv.org/abs/1512.03385.

    Args:
        in_features: size of the input, at least 1.
        hidden: width of the one hidden layer, or widths of each.
        activation: name of the nonlinearity after each hidden layer.
        norm: "batch" for batch normalization before each nonlinearity, over all leading dimensions
            (rows of a batch then depend on each other in train mode, and a batch of one is
            normalized as in eval mode); "weight" for weight normalization; or None.
        residual: whether each hidden layer adds its input to its output.

    Attributes:
        out_features: size of the output.

    Raises:
        ValueError: if a size is below 1, a name is unknown, or there are no hidden layers for the
            batch normalization or residual connections.

    Example:
        >>> import torch
        >>> HiddenLayers(784, (400, 200), norm="batch")(torch.zeros(5, 3, 784)).shape
        torch.Size([5, 3, 200])
    """

    def __init__(
        self,
        in_features: int,
        hidden: int | Sequence[int],
        *,
        activation: str = "silu",
        norm: str | None = None,
        residual: bool = False,
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(*_layers(in_features, hidden, activation, norm, residual))
        self.out_features = (in_features, *_widths(hidden))[-1]

    def forward(self, x: Tensor) -> Tensor:
        """Map `(*batch, in_features)` to `(*batch, out_features)`."""
        y: Tensor = self.layers(x)
        return y


class MLP(nn.Module):
    """Multilayer perceptron over the last dimension, linear at the end.

    Args:
        in_features: size of the input, at least 1.
        hidden: width of the one hidden layer, or widths of each; `()` is a linear map.
        out_features: size of the output, at least 1.
        activation: name of the nonlinearity after each hidden layer.
        norm: passed to `HiddenLayers`: "batch", "weight" (of the last layer too) or None.
        residual: passed to `HiddenLayers`: whether each adds its input to its output.
        out_bias: what the bias of the last layer starts at; drawn as torch does, if None.

    Raises:
        ValueError: as for `HiddenLayers`.

    Example:
        >>> import torch
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
        norm: str | None = None,
        residual: bool = False,
        out_bias: float | None = None,
    ) -> None:
        super().__init__()
        if out_features < 1:
            raise ValueError(
                f"MLP got in_features={in_features}, hidden={hidden}, out_features={out_features}; "
                "expected sizes of at least 1"
            )
        layers = _layers(in_features, hidden, activation, norm, residual)
        last = (in_features, *_widths(hidden))[-1]
        out = _linear(last, out_features, norm)
        if out_bias is not None:
            nn.init.constant_(out.bias, out_bias)
        self.layers = nn.Sequential(*layers, out)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(*batch, in_features)` to `(*batch, out_features)`."""
        y: Tensor = self.layers(x)
        return y


class _BatchNorm(nn.BatchNorm1d):
    """Batch normalization over all leading dimensions; of one row by the running statistics."""

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        # The last batch of an epoch may be one datum, which has no spread.
        if self.training and len(rows) == 1:
            mean, var = self.running_mean, self.running_var
            normalized = batch_norm(rows, mean, var, self.weight, self.bias, eps=self.eps)
        else:
            normalized = super().forward(rows)
        return normalized.reshape(x.shape)


class _Residual(nn.Module):
    """A layer that adds its input to its output."""

    def __init__(self, layer: nn.Module, skip: nn.Module) -> None:
        super().__init__()
        self.layer, self.skip = layer, skip

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.skip(x) + self.layer(x)
        return y


def _layers(
    in_features: int,
    hidden: int | Sequence[int],
    activation: str,
    norm: str | None,
    residual: bool,
) -> list[nn.Module]:
    """Hidden layers in their order, one after the other."""
    sizes = (in_features, *_widths(hidden))
    if not all(isinstance(size, Integral) and size >= 1 for size in sizes):
        raise ValueError(
            f"a network got in_features={in_features}, hidden={hidden}; expected whole sizes of "
            "at least 1"
        )
    check_name("activation", activation, ACTIVATIONS)
    if norm is not None:
        check_name("norm", norm, _NORMS)
    if len(sizes) == 1 and (norm == "batch" or residual):
        given = "norm='batch'" if norm == "batch" else "residual=True"
        raise ValueError(
            f"{given} is of hidden layers, and hidden={hidden} has none: give hidden a width, or "
            f"leave {given.partition('=')[0]} out"
        )
    layers: list[nn.Module] = []
    for size, next_size in pairwise(sizes):
        layer = [_linear(size, next_size, norm), ACTIVATIONS[activation]()]
        if norm == "batch":
            # The normalization takes the mean off and adds a bias of its own.
            layer = [nn.Linear(size, next_size, bias=False), _BatchNorm(next_size), layer[-1]]
        if residual:
            same = size == next_size
            skip = nn.Identity() if same else nn.Linear(size, next_size, bias=False)
            layer = [_Residual(nn.Sequential(*layer), skip)]
        layers += layer
    return layers


def _linear(size: int, next_size: int, norm: str | None) -> nn.Linear:
    linear = nn.Linear(size, next_size)
    return weight_norm(linear) if norm == "weight" else linear


def _widths(hidden: int | Sequence[int]) -> tuple[int, ...]:
    return tuple(hidden) if isinstance(hidden, Iterable) else (hidden,)
