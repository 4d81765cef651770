"""Is every dimension of a log-probability a plate's? The others belong into the event."""

from collections.abc import Iterator

from torch import Tensor

from pvae.checking.finding import Finding
from pvae.checking.inspection import Subject
from pvae.pair.distributions import distribution_name
from pvae.pair.traces import Site

__all__ = ["undeclared_dimensions"]


def undeclared_dimensions(subject: Subject) -> Iterator[Finding]:
    """Batch dimensions that lie in no plate: a missing to_event, or a broadcast."""
    for role, _ in subject.programs:
        for name, site in subject.sites(role).items():
            wrong = _undeclared(name, site, subject.rows)
            if wrong:
                yield Finding.at(subject.place(role, name), "error", f"in the {role}, {wrong}")


def _undeclared(name: str, site: Site, rows: int) -> str:
    shape: tuple[int, ...] = tuple(_log_prob(site).shape)
    plates = {frame.dim: frame for frame in site["cond_indep_stack"] if frame.vectorized}
    left = [dim for dim in range(-len(shape), 0) if shape[dim] > 1 and dim not in plates]
    if not left:
        return ""
    said = f"the log-probabilities at site {name!r} have shape {shape}"
    if not plates:
        events = f" and mark the others with .to_event({len(shape) - 1})" if shape[1:] else ""
        return (
            f"{said}, but the statement is in no plate: put it into `with pyro.plate('data', "
            f"len(x)):`{events}"
        )
    if shape.count(rows) > 1 and rows > 1:
        value = tuple(site["value"].shape)
        return (
            f"{said}: something of shape ({rows},) was broadcast against ({rows}, 1), so that "
            f"every datum meets every other (the value has shape {value}): give data and the "
            f"parameters of {distribution_name(site['fn'])} one shape, and mark a dimension of the "
            "datum's own with .to_event(1)"
        )
    sizes = [shape[dim] for dim in left]
    return (
        f"{said}, of which {sizes} lie in no plate: mark the dimensions of one datum with "
        f".to_event({len(left)})"
    )


def _log_prob(site: Site) -> Tensor:
    value: Tensor = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
    return value
