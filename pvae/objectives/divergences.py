"""The divergence of each latent site from its prior: in closed form, or at the draws."""

from typing import Any

import pyro.distributions as dist
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch.distributions import kl_divergence

from pvae.pair.log_prob import by_row, own_scale
from pvae.pair.particles import Draw, Particles
from pvae.pair.traces import Site, latent_sites

__all__ = ["analytic", "at_draws"]


def at_draws(log_p: dict[str, Tensor], log_q: dict[str, Tensor], draw: Draw) -> dict[str, Tensor]:
    """log q - log p by latent site, of any shape that the two tables have."""
    found = dict(log_q)
    for name in latent_sites(draw.model):
        if name in log_p:
            found[name] = found.get(name, 0.0) - log_p[name]
    return found


def analytic(particles: Particles, draw: Draw) -> dict[str, Tensor]:
    """KL(q(z_s | .) || p(z_s | .)) in nats by local site, where it can be had; (particles, rows).

    It is exact given the sites before z_s in the guide, and so may stand for the draw of z_s where
    p(z_s | .) depends on none of the others: where all latent sites that come before z_s in the
    model come before it in the guide too. Both traces are of the tiled batch.
    """
    guide, model = draw.proposal.sites, latent_sites(draw.model)
    found: dict[str, Tensor] = {}
    before_in_model: list[str] = []
    for name, prior in model.items():
        before_in_guide = list(guide)[: list(guide).index(name)]
        if name in draw.log_q.local and set(before_in_model) <= set(before_in_guide):
            value = _closed_form(particles, guide[name], prior)
            if value is not None:
                found[name] = value.reshape(draw.proposal.count, -1)
        before_in_model.append(name)
    return found


def _closed_form(particles: Particles, proposed: Site, prior: Site) -> Tensor | None:
    """The divergence by row, or None where there is no formula for the two distributions."""
    masks = (proposed["mask"], prior["mask"])
    scales = tuple(own_scale(site, particles.plate) for site in (proposed, prior))
    if masks[0] is not masks[1] or not _same(*scales):
        return None
    if isinstance(_innermost(proposed["fn"]), dist.Delta):
        return None  # its log_density would be left out
    try:
        divergence = kl_divergence(proposed["fn"], prior["fn"])
    except NotImplementedError:
        return None
    divergence = scale_and_mask(divergence, scales[0] if particles.scaled else 1.0, masks[0])
    return by_row(divergence, proposed, particles.plate)


def _innermost(fn: Any) -> Any:
    inner = getattr(fn, "base_dist", fn)
    return fn if inner is fn else _innermost(inner)


def _same(one: float | Tensor, other: float | Tensor) -> bool:
    """Whether two scales are one: the same tensor, or the same number."""
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return one is other
    return one == other
