"""The divergence from posterior to prior by latent site: in closed form, or at the draws."""

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from pvae.pair.kl import closed_form_kl, sites_with_exact_kl
from pvae.pair.log_prob import own_scale, scale_within, site_log_prob, sum_to_rows
from pvae.pair.particles import Draw, Particles
from pvae.pair.traces import Site, latent_sites

__all__ = ["analytic", "at_draws"]


def at_draws(log_p: dict[str, Tensor], log_q: dict[str, Tensor], draw: Draw) -> dict[str, Tensor]:
    """log q - log p at the draws by latent site, in the shape of the two tables."""
    found = dict(log_q)
    for name in latent_sites(draw.model):
        if name in log_p:
            found[name] = found.get(name, 0.0) - log_p[name]
    return found


def analytic(particles: Particles, draw: Draw) -> dict[str, Tensor]:
    """KL(q(z_s | .) || p(z_s | .)) in nats by local site, shape (particles, rows), where exact.

    Both traces are of the tiled batch. See `sites_with_exact_kl` for the sites that qualify.
    """
    guide, model = draw.proposal.sites, latent_sites(draw.model)
    found: dict[str, Tensor] = {}
    for name in sites_with_exact_kl(list(model), list(guide)):
        if name in draw.log_q.local:
            value = _closed_form(particles, guide[name], model[name])
            if value is not None:  # otherwise at the draws
                found[name] = value.reshape(draw.proposal.count, -1)
    return found


def _closed_form(particles: Particles, proposed: Site, prior: Site) -> Tensor | None:
    """The divergence by row, at the draw where scales or masks differ; None without a formula."""
    divergence = closed_form_kl(proposed["fn"], prior["fn"])
    if divergence is None:
        return None
    plate, scaled = particles.plate, particles.scaled
    scale = own_scale(proposed, plate) if scaled else scale_within(proposed, plate)
    divergence = scale_and_mask(divergence, scale, proposed["mask"])
    same = _same(*(own_scale(site, plate) for site in (proposed, prior)))
    same = same & _same(*(_mask(site) for site in (proposed, prior)))
    if not isinstance(same, bool):
        log_q, log_p = (site_log_prob(s, plate, scaled=scaled) for s in (proposed, prior))
        divergence = torch.where(same, divergence, log_q - log_p)
    elif not same:
        return None
    return sum_to_rows(divergence, proposed, plate)


def _mask(site: Site) -> bool | Tensor:
    return True if site["mask"] is None else site["mask"]


def _same(one: float | Tensor, other: float | Tensor) -> bool | Tensor:
    """Whether two scales or masks are the same; by element if that takes reading a device."""
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return True if one is other else torch.as_tensor(one == other)
    return one == other
