"""Log-probabilities of a pair's traces, by site and by datum."""

from typing import NamedTuple

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from pvae.pair.plate import DataPlate
from pvae.pair.traces import Site, sample_sites

__all__ = [
    "Terms",
    "log_probs",
    "log_weight_terms",
    "own_scale",
    "scale_within",
    "site_log_prob",
    "sum_to_rows",
]


class Terms(NamedTuple):
    """Terms of log p(x, z), of log q(z | x) or of their difference, by site, in nats.

    Attributes:
        local: for sites inside the data plate, shape (rows,), or (particles, rows).
        global_: for global sites, shape ().
    """

    local: dict[str, Tensor]
    global_: dict[str, Tensor]


def log_weight_terms(
    model_trace: poutine.Trace, guide_trace: poutine.Trace, plate: DataPlate | None
) -> Terms:
    """The terms of log p(x, z) - log q(z | x) at the values of two traces.

    Args:
        model_trace: the model, replayed against the guide's trace.
        guide_trace: the guide.
        plate: the data plate; without a vectorized one, all terms are global.

    Returns:
        Terms by site, in nats, local ones of shape (rows,). Handlers' scales and the data plate's
        are left out, since each datum counts once; masks, and the scales of other plates that
        subsample, apply.
    """
    of_model, of_guide = log_probs(model_trace, plate), log_probs(guide_trace, plate)
    for name, site in sample_sites(model_trace):
        if not site["is_observed"] and name not in guide_trace.nodes:
            # Summed out by the objective: proposed from its prior, so that it cancels.
            of_model.local.pop(name, None)
            of_model.global_.pop(name, None)
    for table, proposed in zip(of_model, of_guide, strict=True):
        for name, log_prob in proposed.items():
            table[name] = table.get(name, 0.0) - log_prob
    return of_model


def log_probs(trace: poutine.Trace, plate: DataPlate | None, *, scaled: bool = False) -> Terms:
    """The log-probabilities of one trace by site, in nats, local ones of shape (rows,).

    Args:
        trace: of a model or a guide.
        plate: the data plate; without a vectorized one, all sites are global.
        scaled: multiply by scales, as `site_log_prob` does.
    """
    found = Terms({}, {})
    for name, site in sample_sites(trace):
        log_prob = site_log_prob(site, plate, scaled=scaled)
        if plate is None or plate.frame(site) is None:
            found.global_[name] = log_prob.sum()
        else:
            found.local[name] = sum_to_rows(log_prob, site, plate)
    return found


def site_log_prob(site: Site, plate: DataPlate | None, *, scaled: bool = False) -> Tensor:
    """The log-probability of a site at its value, in nats, with its mask.

    Args:
        site: of a trace.
        plate: the data plate.
        scaled: multiply by the site's scale, except for the part that stands for data outside the
            batch (the scale of a data plate that is larger than the batch). Otherwise by the scale
            of other plates alone, which subsample within a datum.
    """
    log_prob = site.get("unscaled_log_prob")  # of a guide's own draw
    if log_prob is None:
        log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
    scale = own_scale(site, plate) if scaled else scale_within(site, plate)
    masked: Tensor = scale_and_mask(log_prob, scale, site["mask"])
    return masked


def own_scale(site: Site, plate: DataPlate | None) -> float | Tensor:
    """A site's scale without that of a data plate which is larger than the batch."""
    frame = plate.frame(site) if plate is not None else None
    scale: float | Tensor = site["scale"]
    if frame is None or not frame.full_size or frame.full_size == frame.size:
        return scale
    return scale * (frame.size / frame.full_size)


def scale_within(site: Site, plate: DataPlate | None) -> float:
    """The scale of the plates around a site, apart from the data plate, that subsample."""
    scale = 1.0
    for frame in site["cond_indep_stack"]:
        of_data = plate is not None and frame.name in plate.names
        if not of_data and frame.full_size and frame.full_size != frame.size:
            scale *= frame.full_size / frame.size
    return scale


def sum_to_rows(log_prob: Tensor, site: Site, plate: DataPlate) -> Tensor:
    """Sum a local site's log-probabilities over all batch dimensions but the rows; (rows,)."""
    frame = plate.frame(site)
    assert frame is not None
    if frame.dim is None:
        return log_prob.sum().reshape(1)
    # A plate that subsamples itself has fewer rows than the batch.
    shape = torch.broadcast_shapes(log_prob.shape, (frame.size,) + (1,) * (-frame.dim - 1))
    by_datum: Tensor = log_prob.expand(shape).movedim(frame.dim, 0).reshape(frame.size, -1)
    return by_datum.sum(1)
