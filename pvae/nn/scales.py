"""From a network's output to a scale."""

import math

from torch import Tensor
from torch.nn.functional import softplus

__all__ = ["positive"]


def positive(raw: Tensor, *, floor: float = 1e-5) -> Tensor:
    """Map any real number to a scale above `floor`, 0 to 1: a shifted softplus.

    Args:
        raw: output of a network, any shape.
        floor: smallest value, in (0, 1).

    Returns:
        Scales of the same shape.

    Example:
        >>> import torch
        >>> positive(torch.tensor([-100.0, 0.0, 100.0]))
        tensor([1.0000e-05, 1.0000e+00, 1.0054e+02])
    """
    # Linear above, so that one wild output costs no overflow as exp would.
    return floor + softplus(raw + math.log(math.expm1(1 - floor)))
