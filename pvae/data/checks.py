"""Which tensors may be rows of data."""

import torch
from torch import Tensor

__all__ = ["check_arguments", "check_dense", "check_grey", "levels_of", "without_holes"]


def without_holes(x: Tensor, missing: Tensor | str | None) -> tuple[Tensor, Tensor | None]:
    """x with 0 in its holes, and where they are."""
    if missing is None:
        return x, None
    if isinstance(missing, str):
        if missing != "nan":
            raise ValueError(f"missing is {missing!r}: give None, 'nan' or a bool tensor like x")
        missing = torch.isnan(x) if x.is_floating_point() else torch.zeros_like(x, dtype=torch.bool)
    if missing.dtype != torch.bool or missing.shape != x.shape:
        raise ValueError(
            f"missing is {missing.dtype} of shape {tuple(missing.shape)}: expected bool of the "
            f"shape of x, {tuple(x.shape)}, True where a value is missing"
        )
    if missing.all():
        raise ValueError("missing is True everywhere, so there are no data")
    return x.masked_fill(missing, 0), missing


def check_dense(arguments: tuple[Tensor, ...]) -> None:
    """Refuse tensors that are sparse, quantized or without values."""
    for argument in arguments:
        if argument.layout != torch.strided or argument.is_quantized:
            what = "quantized" if argument.is_quantized else "sparse"
            how = "dequantize" if argument.is_quantized else "to_dense"
            raise TypeError(f"the data are a {what} tensor: give ordinary ones, x.{how}()")
        if argument.is_meta:
            raise TypeError("the data are a tensor on device 'meta', which has no values")


def check_arguments(arguments: tuple[Tensor, ...], labels: Tensor | None) -> None:
    """Refuse arguments that are empty, of other lengths or not finite, and unfit labels."""
    names = ["x", *(f"argument {i}" for i in range(1, len(arguments)))]
    for name, argument in zip(names, arguments, strict=True):
        if argument.dim() == 0 or argument.numel() == 0:
            raise ValueError(
                f"{name} is empty, of shape {tuple(argument.shape)}: give at least one row"
            )
        if len(argument) != len(arguments[0]):
            raise ValueError(
                f"{name} has {len(argument)} rows and x has {len(arguments[0])}: "
                "all must have the same first dimension"
            )
        _check_finite(name, argument)
    if labels is None:
        return
    if labels.is_floating_point() or labels.is_complex():
        raise TypeError(f"labels are {labels.dtype}: give integers, one for each row")
    if labels.shape != (len(arguments[0]),):
        raise ValueError(
            f"labels have shape {tuple(labels.shape)} and x has {len(arguments[0])} rows: "
            f"expected one label for each row, ({len(arguments[0])},)"
        )


def _check_finite(name: str, argument: Tensor) -> None:
    finite = torch.isfinite(argument)
    if finite.all():
        return
    bad = (~finite.reshape(len(argument), -1).all(1)).nonzero().flatten().tolist()
    listed = ", ".join(map(str, bad[:5])) + (f" and {len(bad) - 5} more" if len(bad) > 5 else "")
    raise ValueError(
        f"{name} has NaN or infinity in {len(bad)} of its {len(argument)} rows, counted from 0: "
        f"{listed}; if NaN means that a value is missing, say so with missing='nan' (on the "
        "command line --missing nan), and the bound is that of the other cells"
    )


def levels_of(x: Tensor, levels: int | None) -> int | None:
    """The number of grey levels of x, if it has such; given or found."""
    if levels is None:
        if ((x == 0) | (x == 1)).all():
            return 2
        return 256 if x.dtype == torch.uint8 else None
    if x.dtype not in (torch.uint8, torch.bool):
        raise ValueError(f"levels={levels} is for x of uint8, and x is {x.dtype}: leave it out")
    if not 2 <= levels <= 256 or int(x.max()) >= levels:
        raise ValueError(
            f"levels={levels} does not fit x, whose largest value is {int(x.max())}: "
            f"expected {max(int(x.max()) + 1, 2)} to 256"
        )
    return levels


def check_grey(x: Tensor, levels: int | None) -> None:
    """Refuse to binarize data that have no grey levels."""
    if levels == 2:
        raise ValueError(
            "the data hold only 0 and 1, so binarize is not needed: leave it at 'none'"
        )
    if x.dtype != torch.uint8 and not x.is_floating_point():
        raise ValueError(
            f"binarize needs grey levels, and x is {x.dtype}: give uint8, or floats in [0, 1]"
        )
    if x.is_floating_point() and (x.min() < 0 or x.max() > 1):
        raise ValueError(
            f"binarize needs grey levels in [0, 1], and x goes from {float(x.min()):g} to "
            f"{float(x.max()):g}: scale it to [0, 1] first"
        )
