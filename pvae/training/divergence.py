"""Divergence: the error for a loss that is not finite, and the site that failed first."""

from collections.abc import Callable
from pathlib import Path

import pyro
import torch
from torch import Tensor

from pvae.pair.distributions import base_distribution
from pvae.pair.traces import PROGRAM_ERRORS, paired_traces, sample_sites

__all__ = ["DivergedError", "diverged", "first_broken_site", "out_of_range"]


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


def diverged(
    *,
    step: int,
    epoch: int,
    site: tuple[str, str] | None,
    learning_rate: float | None,
    restored: str,
    kept: Path | None,
) -> DivergedError:
    """Build the error for a loss that is not finite."""
    name = site[0] if site is not None else None
    which = (
        f"the first site to fail is {site[0]!r}, {site[1]}"
        if site
        else "a repetition did not show the site"
    )
    back = f"; the last good checkpoint is {kept}" if kept is not None else ""
    rate = f" (now {learning_rate:g})" if learning_rate is not None else ""
    return DivergedError(
        f"the training diverged: its loss is not finite from step {step} on, in epoch {epoch}: "
        f"{which}. The pair was "
        f"restored to {restored}{back}. Try a lower learning rate{rate}, "
        "clip_norm, or data and scales nearer to 1",
        step=step,
        site=name,
    )


def first_broken_site(
    model: Callable[..., object], guide: Callable[..., object], batch: tuple[Tensor, ...]
) -> tuple[str, str] | None:
    """The first site, guide before model, whose log-probability is not finite, and the cause.

    Returns:
        The name of the site and a phrase such as "in the guide: its loc is NaN"; None if all
        log-probabilities are finite.
    """
    with torch.no_grad(), pyro.validation_enabled(False):
        model_trace, guide_trace = paired_traces(model, guide, batch)
        for role, trace in (("guide", guide_trace), ("model", model_trace)):
            for name, site in sample_sites(trace):
                log_prob = site["fn"].log_prob(site["value"])
                if not torch.isfinite(log_prob).all():
                    return name, f"in the {role}: {_parameter_at_fault(site['fn'])}"
    return None


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
