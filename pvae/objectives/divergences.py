"""The divergence from posterior to prior by latent site: in closed form, or at the draws."""

from pyro.distributions.util import scale_and_mask
from torch import Tensor

from pvae.pair.kl import closed_form_kl, sites_with_exact_kl
from pvae.pair.log_prob import own_scale, sum_to_rows
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
            if value is not None:
                found[name] = value.reshape(draw.proposal.count, -1)
    return found


def _closed_form(particles: Particles, proposed: Site, prior: Site) -> Tensor | None:
    """The divergence by row; None if scales or masks differ, or no formula is known."""
    masks = (proposed["mask"], prior["mask"])
    scales = tuple(own_scale(site, particles.plate) for site in (proposed, prior))
    if masks[0] is not masks[1] or not _same(*scales):
        return None
    divergence = closed_form_kl(proposed["fn"], prior["fn"])
    if divergence is None:
        return None
    divergence = scale_and_mask(divergence, scales[0] if particles.scaled else 1.0, masks[0])
    return sum_to_rows(divergence, proposed, particles.plate)


def _same(one: float | Tensor, other: float | Tensor) -> bool:
    """Whether two scales are the same tensor or the same number."""
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return one is other
    return one == other
