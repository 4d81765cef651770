"""KL(q(z | x) || p(z)), latent site by latent site and coordinate by coordinate."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch.distributions import Distribution, Independent

from pvae._validation import at_least
from pvae.evaluation.context import EvaluationContext, context_of, parts
from pvae.evaluation.estimate import Estimate, UndefinedQuantityError
from pvae.pair.enumeration import SummedOut, groups_summed_out, log_probs_summed_out
from pvae.pair.kl import closed_form_kl, sites_with_exact_kl
from pvae.pair.log_prob import site_log_prob, sum_to_rows
from pvae.pair.plate import to_rows
from pvae.pair.tiling import tiled
from pvae.pair.traces import Site, latent_sites, paired_traces

__all__ = ["Divergence", "kl_by_site"]


@dataclass(frozen=True)
class Divergence(Estimate):
    """The divergence from posterior to prior of one latent site.

    Attributes:
        analytic: whether the term is a closed form, not a log-ratio of densities.
        per_coordinate: means over data in nats, shape (D,), which add up to `mean`; None if the
            distributions do not factorize over coordinates.
        per_coordinate_error: their standard errors over data, shape (D,).

    Example:
        >>> import pvae, pyro, torch
        >>> import pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):  # the posterior itself
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))
        >>> kl = pvae.evaluation.kl_by_site(model, guide, torch.zeros(3))["z"]
        >>> kl.per_datum.shape, kl.per_coordinate.shape
        (torch.Size([3]), torch.Size([1]))
    """

    analytic: bool
    per_coordinate: Tensor | None
    per_coordinate_error: Tensor | None

    def as_json(self) -> dict[str, object]:
        """The numbers for JSON."""
        coordinates = self.per_coordinate
        return {
            **super().as_json(),
            "num_data": len(self.per_datum),
            "analytic": self.analytic,
            "per_coordinate": None if coordinates is None else coordinates.tolist(),
        }


def kl_by_site(
    model: Callable[..., object],
    guide: Callable[..., object],
    data: object,
    *,
    num_particles: int = 10,
    seed: int = 0,
) -> dict[str, Divergence]:
    """Split E_x KL(q(z | x) || p(z)) by latent site, in nats per datum.

    The term of a site is E_q[log q(z_l | ..., x) - log p(z_l | ...)], given the sites that it
    depends on in the guide and in the model. If the closed form is known, and no site that precedes
    it in the model follows it in the guide, the term is E_q KL(q(z_l | ..., x) || p(z_l | ...));
    otherwise it is the log-ratio, evaluated at the samples. Terms add up to the divergence of all
    sites; a single term may be negative if the orders differ. Global sites are left out, and
    discrete sites of the model alone are summed out of p(z).

    References:
        Ladder Variational Autoencoders (C. K. Sønderby, T. Raiko, L. Maaløe, S. K. Sønderby,
        O. Winther, 2016), https://arxiv.org/abs/1602.02282, for the terms of a hierarchy.

    Args:
        model: p(x, z), called with one batch.
        guide: q(z | x), called with the same arguments.
        data: a tensor of shape (N, ...), a tuple of tensors, or a split of a data set.
        num_particles: draws from the guide per datum, at least 1.
        seed: seeds the draws.

    Returns:
        Keyed by site of the data plate, a `Divergence`: `.mean`, `.std_error`, `.mc_error` (0 if no
        draws change it), `.per_datum` (N,), `.per_coordinate` (D,).

    Raises:
        ValueError: if `num_particles` is below 1, or (`UndefinedQuantityError`) there is no
            vectorized data plate with a latent site, the guide has point masses or auxiliary sites,
            or p(z) is a sum over a site that several others share, or an integral.

    Example:
        >>> import pvae, pyro, torch
        >>> import pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):  # the posterior itself
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))
        >>> kl = pvae.evaluation.kl_by_site(model, guide, torch.zeros(3))["z"]
        >>> round(kl.mean, 3), kl.analytic  # nats per datum: (log 2 - 1/2) / 2
        (0.097, True)
    """
    at_least(1, num_particles=num_particles)
    sums: dict[str, list[_Sums]] = {}
    context = context_of(model, guide, data)
    context.require_latent_sites(allow_global=True)
    context.require_density(by_site=True)
    with context.evaluating(seed):
        for rows in parts(len(context.source), max(1, context.rows_per_run() // num_particles)):
            batch = context.source.arguments(rows)
            for name, part in _batch(model, guide, context, batch, num_particles).items():
                sums.setdefault(name, []).append(part)
        # A draw of a global site is common to all data of a call: the spread is unknown.
        spread_known = num_particles > 1 and not context.global_sites
    return {name: _divergence(found, num_particles, spread_known) for name, found in sums.items()}


@dataclass
class _Sums:
    """Sums over the particles of several rows: (rows,), (rows,), and (rows, D) if it factorizes.

    The second sum is that of squares of the difference to `origin`, the first particle's value.
    """

    origin: Tensor
    first: Tensor
    second: Tensor
    coordinates: Tensor
    factorized: bool
    analytic: bool


def _batch(
    model: Callable[..., object],
    guide: Callable[..., object],
    context: EvaluationContext,
    batch: tuple[Tensor, ...],
    num_particles: int,
) -> dict[str, _Sums]:
    found: dict[str, _Sums] = {}
    width = len(batch[0])
    for part in parts(num_particles, context.rows_per_run() // width):
        count = part.stop - part.start
        summed_out = context.prior_summed_out
        if summed_out is None:
            model_trace, guide_trace = paired_traces(model, guide, tiled(batch, count))
        else:
            model_trace, guide_trace = context.summed_out_traces(tiled(batch, count), summed_out)
        proposed, prior = latent_sites(guide_trace), latent_sites(model_trace)
        log_sums = {} if summed_out is None else _log_sums(context, model_trace, summed_out)
        exact_sites = sites_with_exact_kl(list(prior), list(proposed))
        for name in context.latent_sites:
            site = proposed[name]
            frame = context.frame(site)
            if name in log_sums:
                plate = context.require_plate()
                log_q = sum_to_rows(site_log_prob(site, plate), site, plate)
                terms, rest, factorized, analytic = log_q - log_sums[name], 0, False, False
                by_row = terms.double().reshape(count, width, 1).cpu()
            else:
                terms, factorized, analytic = _terms(site, prior[name], name in exact_sites)
                rest = terms.dim() - len(site["fn"].batch_shape)
                by_row = to_rows(terms, frame, rest).double().reshape(count, width, -1).cpu()
            total = by_row.sum(-1)
            origin = found[name].origin if name in found else total[0]
            square = (total - origin).square().sum(0)
            new = _Sums(origin, total.sum(0), square, by_row.sum(0), factorized, analytic)
            old = found.setdefault(name, new)
            if old is not new:
                old.first += new.first
                old.second += new.second
                old.coordinates += new.coordinates
    return found


def _log_sums(
    context: EvaluationContext, trace: poutine.Trace, summed_out: SummedOut
) -> dict[str, Tensor]:
    """log p(z_s | .) in nats of the sites whose prior is a sum, keyed by site, each (rows,)."""
    plate, names, latents = context.require_plate(), summed_out.names, latent_sites(trace)
    groups = groups_summed_out(trace, plate, names, latents)
    for group in groups:
        if len(group) > 1:
            raise UndefinedQuantityError(
                f"the prior of sites {group} is a sum over sites {list(names)} of the model that "
                "they share, so the divergence is no sum over sites; the bound of pvae.elbo has it"
            )
    terms = log_probs_summed_out(trace, plate, names, sites=latents).local
    return {group[0]: terms[group[0]] for group in groups if group}


def _divergence(found: list[_Sums], num_particles: int, spread_known: bool) -> Divergence:
    per_datum = torch.cat([part.first for part in found]) / num_particles
    second = torch.cat([part.second for part in found])
    origin = torch.cat([part.origin for part in found])
    if spread_known:
        apart = num_particles * (per_datum - origin).square()
        spread = (second - apart).clamp(min=0) / (num_particles - 1)
        mc_error = math.sqrt(spread.sum().item() / num_particles) / len(per_datum)
    else:
        mc_error = math.nan
    mean, std_error = Estimate.over_data(per_datum)
    coordinates = error = None
    if found[0].factorized:
        means = torch.cat([part.coordinates for part in found]) / num_particles
        coordinates = means.mean(0).float()
        error = (means.std(0) / math.sqrt(len(means))).float()
    return Divergence(
        mean,
        std_error,
        mc_error,
        num_particles,
        per_datum.float(),
        found[0].analytic,
        coordinates,
        error,
    )


def _terms(q_site: Site, p_site: Site, closed_form: bool) -> tuple[Tensor, bool, bool]:
    """A site's divergence at the draw, (*batch, ...); whether by coordinate, and in closed form."""
    value = q_site["value"]
    unmasked = q_site["mask"] is None and p_site["mask"] is None
    if unmasked:
        q, p = _factorize(q_site["fn"], p_site["fn"])
        factorized = not q.event_shape
        closed = closed_form_kl(q, p) if closed_form else None
        if closed is not None:
            return closed, factorized, True
        return q.log_prob(value) - p.log_prob(value), factorized, False
    log_q, log_p = (
        scale_and_mask(site["fn"].log_prob(value), 1.0, site["mask"]) for site in (q_site, p_site)
    )
    return log_q - log_p, not q_site["fn"].event_shape, False


def _factorize(q: Distribution, p: Distribution) -> tuple[Distribution, Distribution]:
    """Both distributions over single coordinates if they factorize in the same way."""
    while (
        isinstance(q, Independent)
        and isinstance(p, Independent)
        and q.reinterpreted_batch_ndims == p.reinterpreted_batch_ndims
    ):
        q, p = q.base_dist, p.base_dist
    return q, p
