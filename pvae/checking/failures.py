"""Errors that programs raise, explained with file, line and fix."""

import re
from collections.abc import Callable, Sequence
from re import Match

import torch
from torch import Tensor

from pvae.checking.report import Finding, PairError
from pvae.pair.locations import location_of_error

__all__ = ["failed", "program_failed"]


def program_failed(
    error: Exception, batch: tuple[Tensor, ...], elsewhere: Sequence[str] = ()
) -> PairError:
    """Build the error for a program that fails.

    Args:
        error: what the program raised.
        batch: what it was called with.
        elsewhere: names of tensors that could not be moved to the device.
    """
    return PairError([failed(error, batch, elsewhere)])


def failed(error: Exception, batch: tuple[Tensor, ...], elsewhere: Sequence[str] = ()) -> Finding:
    """Describe where a program failed, on which data, and the fix if the cause is known.

    Args:
        error: what the program raised.
        batch: what it was called with.
        elsewhere: names of tensors that could not be moved to the device.
    """
    # Pyro wraps errors to append a table of shapes; the cause is the user's.
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    shapes = ", ".join(f"{tuple(part.shape)} {part.dtype}" for part in batch)
    said = f"{type(cause).__name__}: {cause}"
    message = f"the pair fails on a batch of {shapes}: {said}"
    advice = _advice(str(cause), batch)
    if elsewhere:
        advice = (
            f"these tensors are not on {batch[0].device} and belong to no network: "
            f"{list(elsewhere)}: register them as buffers, or make them on the device of x"
        )
    location = location_of_error(error.__traceback__)
    return Finding.at(location, "error", f"{message}; {advice}" if advice else message)


def _advice(said: str, batch: tuple[Tensor, ...]) -> str:
    for pattern, advise in _KNOWN.items():
        found = re.search(pattern, said, re.DOTALL)
        if found:
            return advise(found, batch)
    return ""


def _plate(found: Match[str], batch: tuple[Tensor, ...]) -> str:
    plate, site, dim, size, given = found.groups()
    rows = len(batch[0])
    if int(given) == rows and int(size) != rows:
        return (
            f"plate {plate!r} has {size} elements, the batch has {rows} rows: size the plate with "
            f"len(x), or give pyro.plate({plate!r}, {size}, subsample_size=len(x))"
        )
    return (
        f"the distribution at {site!r} has {given} elements in batch dimension {dim}, which is "
        f"that of plate {plate!r} with {size}: declare the dimensions of one datum with "
        ".to_event(1), or .to_event(k) for k of them"
    )


def _positive(found: Match[str], batch: tuple[Tensor, ...]) -> str:
    if "nan" in found.string.split("found invalid values", 1)[-1][:400]:
        return (
            "a network returned NaN: check that the data are finite and near 1, and lower the "
            "learning rate"
        )
    return (
        f"a network's output is unbounded: make {found[1]} positive with "
        "torch.nn.functional.softplus or .exp()"
    )


_KNOWN: dict[str, Callable[[Match[str], tuple[Tensor, ...]], str]] = {
    r"Shape mismatch inside plate\('(.+?)'\) at site (\S+) dim (-?\d+), (\d+) vs (\d+)": _plate,
    r"Expected parameter (\w+) .*GreaterThan": _positive,
    r"Expected parameter (\w+) .*Interval": lambda found, batch: (
        f"a network's output is unbounded: bring {found[1]} into its range with "
        "torch.sigmoid, or give logits= instead of probs="
    ),
    r"Expected parameter (\w+) .*Simplex": lambda found, batch: (
        f"a network's output is unbounded: normalize {found[1]} with .softmax(-1), or give logits="
    ),
    r"Multiple (?:sample|observe|\w+) sites named '(.+?)'": lambda found, batch: (
        f"{found[1]!r} names two statements, or one in a loop: give each draw its own name, "
        'such as f"z{i}"'
    ),
    r"mat1 and mat2 shapes cannot be multiplied": lambda found, batch: (
        "the layer expects another number of features: flatten the data, as in x.flatten(1), "
        "or size the layer by x.shape[1:]"
    ),
    r"must have the same dtype|expected scalar type|dtypes? mismatch": lambda found, batch: (
        "data and networks have different types: convert the data with x.float()"
        if batch[0].dtype != torch.float32
        else "a network or a constant is not float32, as the data are: convert it with .float()"
    ),
    r"Value is not broadcastable with batch_shape": lambda found, batch: (
        f"this batch has {len(batch[0])} rows, and a guide with a row of parameters for each "
        "datum, such as an autoguide over local sites, is for one number of rows: train on all "
        "data at once, with batch_size=len(data), or use a guide that computes q(z | x) from x"
    ),
    r"Attempted to use an uninitialized parameter": lambda found, batch: (
        "a lazy layer, such as nn.LazyLinear, has no parameters until it is called: call it once "
        "before training, or remove it if nothing calls it"
    ),
    r"(?:takes|missing) .*positional argument": lambda found, batch: (
        f"model and guide are both called with the {len(batch)} argument(s) of a batch: give them "
        "the same signature; the labels of a data set are an argument if it was loaded with "
        "labels=True (on the command line, --labels)"
    ),
}
