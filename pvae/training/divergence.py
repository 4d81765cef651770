"""Divergence: the error for a loss that is not finite, and the site that failed first."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyro
import torch
from torch import Tensor

from pvae.pair.distributions import base_distribution
from pvae.pair.plate import DataPlate
from pvae.pair.traces import PROGRAM_ERRORS, paired_traces, sample_sites

__all__ = ["BrokenSite", "DivergedError", "diverged", "first_broken_site", "out_of_range"]

_MOST_ROWS = 5  # named in an error


class DivergedError(ArithmeticError):
    """The loss became NaN or infinite.

    Attributes:
        step: the first step with such a loss, counted from 0 over the whole run.
        site: the first site whose log-probability was not finite, or None if it was not found.

    Example:
        >>> import pvae, torch
        >>> model = pvae.models.VAE(x_shape=(4,), z_dim=1, hidden=8, likelihood="gaussian")
        >>> guide = pvae.guides.MeanField(x_shape=(4,), z_dim=1, hidden=8)
        >>> try:
        ...     fit = pvae.fit(model, guide, torch.randn(64, 4), learning_rate=1e30, epochs=3,
        ...                    progress=False)
        ... except pvae.DivergedError as error:
        ...     print(error.site)
        z
    """

    def __init__(self, message: str, *, step: int, site: str | None) -> None:
        super().__init__(message)
        self.step = step
        self.site = site


@dataclass(frozen=True)
class BrokenSite:
    """The first site whose log-probability is not finite.

    Attributes:
        name: its name.
        cause: a phrase such as "in the guide: the loc of its Normal is not finite".
        where: a phrase such as ", in row 7 of the data"; "" for all rows, or where there are none.
    """

    name: str
    cause: str
    where: str = ""


def diverged(
    *,
    step: int,
    epoch: int,
    site: BrokenSite | None,
    operation: str | None,
    learning_rate: float | None,
    restored: str,
    kept: Path | None,
) -> DivergedError:
    """Build the error for a loss that is not finite."""
    which = "a repetition did not show the site"
    if site is not None:
        which = f"the first site to fail is {site.name!r}, {site.cause}{site.where}"
    if operation is not None:
        which += f"; the first operation whose output is not finite is {operation}"
    back = f"; the last good checkpoint is {kept}" if kept is not None else ""
    rate = f" (now {learning_rate:g})" if learning_rate is not None else ""
    return DivergedError(
        f"the training diverged: its loss is not finite from step {step} on, in epoch {epoch}: "
        f"{which}. The pair was "
        f"restored to {restored}{back}. Try a lower learning rate{rate}, "
        "clip_norm, or data and scales nearer to 1",
        step=step,
        site=None if site is None else site.name,
    )


def first_broken_site(
    model: Callable[..., object],
    guide: Callable[..., object],
    batch: tuple[Tensor, ...],
    plate: DataPlate | None = None,
    numbers: Tensor | None = None,
) -> BrokenSite | None:
    """The first site, guide before model, whose log-probability is not finite, and the cause.

    Args:
        model: p(x, z).
        guide: q(z | x).
        batch: their arguments.
        plate: the data plate, which shows rows.
        numbers: of the batch's rows in the data.

    Returns:
        None if all log-probabilities are finite.
    """
    with torch.no_grad(), pyro.validation_enabled(False):
        model_trace, guide_trace = paired_traces(model, guide, batch)
        for role, trace in (("guide", guide_trace), ("model", model_trace)):
            for name, site in sample_sites(trace):
                log_prob = site["fn"].log_prob(site["value"])
                if not torch.isfinite(log_prob).all():
                    cause = f"in the {role}: {_parameter_at_fault(site['fn'])}"
                    frame = plate.frame(site) if plate is not None else None
                    at = None if frame is None else frame.dim
                    if at is None or log_prob.dim() < -at or log_prob.shape[at] != len(batch[0]):
                        return BrokenSite(name, cause)
                    by_row = torch.isfinite(log_prob).movedim(at, 0).reshape(len(batch[0]), -1)
                    rows = ~by_row.all(1)
                    return BrokenSite(name, cause, _rows(rows.cpu(), numbers))
    return None


def _rows(broken: Tensor, numbers: Tensor | None) -> str:
    """Rows of a batch in words."""
    if broken.all():
        return ""
    found = broken.nonzero()[:, 0]
    listed = (found if numbers is None else numbers.cpu()[found]).sort().values.tolist()
    some = ", ".join(map(str, listed[:_MOST_ROWS]))
    more = f" and {len(listed) - _MOST_ROWS} more" if len(listed) > _MOST_ROWS else ""
    of = "its batch" if numbers is None else "the data"
    return f", in row{'s' * (len(listed) > 1)} {some}{more} of {of}"


def out_of_range(
    model: Callable[..., object], guide: Callable[..., object], batch: tuple[Tensor, ...]
) -> bool:
    """Whether a distribution has a parameter that became 0, infinite or NaN, as exp(-1000) does.

    A value of another kind, such as a negative scale, is a mistake in the program.
    """
    try:
        with torch.no_grad(), pyro.validation_enabled(False):
            traces = paired_traces(model, guide, batch)
    except PROGRAM_ERRORS:
        return False  # a mistake of another kind
    with torch.no_grad():
        for trace in traces:
            for _, site in sample_sites(trace):
                fn = base_distribution(site["fn"])
                for key, constraint in getattr(fn, "arg_constraints", {}).items():
                    value = getattr(fn, key, None)
                    if not isinstance(value, Tensor) or constraint.event_dim:
                        continue
                    invalid = value[~constraint.check(value)]
                    if len(invalid):
                        return bool(((invalid == 0) | ~torch.isfinite(invalid)).all())
    return False


def _parameter_at_fault(fn: object) -> str:
    fn = base_distribution(fn)
    for key in getattr(fn, "arg_constraints", {}):
        value = getattr(fn, key, None)
        if isinstance(value, Tensor) and not torch.isfinite(value).all():
            return f"the {key} of its {type(fn).__name__} is not finite"
    return f"the log-probability of its {type(fn).__name__} is not finite"
