"""Classes as input of a network."""

import torch
from torch import Tensor

__all__ = ["with_class"]


def with_class(features: Tensor, label: Tensor, classes: int) -> Tensor:
    """Append the class to features, one-hot.

    Args:
        features: shape `(*batch, features)`.
        label: classes 0, 1, ..., int64; its shape broadcasts with `batch`, as that of an enumerated
            site does, `(classes, 1)`.
        classes: number of classes.

    Returns:
        Shape `(*broadcast, features + classes)`.

    Example:
        >>> with_class(torch.zeros(2, 3), torch.tensor([1, 0]), 2)
        tensor([[0., 0., 0., 0., 1.],
                [0., 0., 0., 1., 0.]])
    """
    codes = torch.eye(classes, dtype=features.dtype, device=features.device)[label]
    shape = torch.broadcast_shapes(features.shape[:-1], codes.shape[:-1])
    return torch.cat([features.expand(*shape, -1), codes.expand(*shape, -1)], -1)
