"""Errors that programs raise, explained with file, line and fix."""

import re
from collections.abc import Callable, Sequence
from re import Match

from torch import Tensor

from pvae.checking.report import Finding, PairError
from pvae.pair.locations import location_of_error

__all__ = ["failed", "program_failed"]


def program_failed(
    error: Exception, batch: tuple[Tensor, ...], elsewhere: Sequence[str] = ()
) -> PairError:
    """The error for a program that raises one.

    Args:
        error: what the program raised.
        batch: what it was called with.
        elsewhere: names of tensors that could not be moved to the device.
    """
    return PairError([failed(error, batch, elsewhere)])


def failed(error: Exception, batch: tuple[Tensor, ...], elsewhere: Sequence[str] = ()) -> Finding:
    """Where the user's program failed, on what, and what to change where the cause is known.

    Args:
        error: what the program raised.
        batch: what it was called with.
        elsewhere: names of tensors that could not be moved to the device.
    """
    # Pyro wraps an error to append a table of shapes: the cause is what the user's code raised.
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
        f"the distribution at {site!r} has {given} elements in the batch dimension {dim} that "
        f"plate {plate!r} takes for its own: dimensions that belong to one datum are declared with "
        ".to_event(1), or .to_event(k) for k of them"
    )


def _positive(found: Match[str], batch: tuple[Tensor, ...]) -> str:
    if "nan" in found.string.split("found invalid values", 1)[-1][:400]:
        return "a network gave NaN: are the data finite and near 1, the learning rate not too high?"
    return (
        f"a network's output can be anything: make a positive {found[1]} of it with "
        "torch.nn.functional.softplus or .exp()"
    )


_KNOWN: dict[str, Callable[[Match[str], tuple[Tensor, ...]], str]] = {
    r"Shape mismatch inside plate\('(.+?)'\) at site (\S+) dim (-?\d+), (\d+) vs (\d+)": _plate,
    r"Expected parameter (\w+) .*GreaterThan": _positive,
    r"Expected parameter (\w+) .*Interval": lambda found, batch: (
        f"a network's output can be anything: bring {found[1]} into its range with "
        "torch.sigmoid, or give logits= instead of probs="
    ),
    r"Expected parameter (\w+) .*Simplex": lambda found, batch: (
        f"make {found[1]} of a network's output with .softmax(-1), or give logits= instead"
    ),
    r"Multiple (?:sample|observe|\w+) sites named '(.+?)'": lambda found, batch: (
        f"{found[1]!r} is the name of two statements, or of one in a loop: give each draw a name "
        'of its own, such as f"z{i}"'
    ),
    r"mat1 and mat2 shapes cannot be multiplied": lambda found, batch: (
        "the layer wants another number of features than it gets: flatten the data, as in "
        "x.flatten(1), or size the layer by x.shape[1:]"
    ),
    r"must have the same dtype|expected scalar type|dtypes? mismatch": lambda found, batch: (
        "data and networks have different types: give the data as float32, x.float()"
    ),
    r"(?:takes|missing) .*positional argument": lambda found, batch: (
        f"model and guide are both called with the {len(batch)} argument(s) of a batch: give them "
        "the same signature"
    ),
}
