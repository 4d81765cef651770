"""Data of any shape as rows of features."""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from pvae.nn.validation import checked_shape

__all__ = ["Flatten"]


class Flatten(nn.Module):
    """Flatten data to vectors, and check their shape.

    Args:
        x_shape: shape of one datum.

    Attributes:
        out_features: how many numbers one datum has.

    Raises:
        ValueError: if x_shape is empty or has a size below 1; in use, if x has another shape.

    Example:
        >>> import torch
        >>> Flatten((28, 20))(torch.zeros(5, 3, 28, 20)).shape
        torch.Size([5, 3, 560])
    """

    def __init__(self, x_shape: Sequence[int]) -> None:
        super().__init__()
        self.x_shape = checked_shape("mlp", x_shape)
        self.out_features = math.prod(self.x_shape)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(*batch, *x_shape)` to `(*batch, out_features)`."""
        if tuple(x.shape[-len(self.x_shape) :]) != self.x_shape:
            raise ValueError(
                f"encoder got x of shape {tuple(x.shape)}; expected (*batch, *x_shape) with "
                f"x_shape {self.x_shape}: build it with the x_shape of the data"
            )
        return x.flatten(-len(self.x_shape))
