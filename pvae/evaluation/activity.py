"""Active units: latent coordinates whose posterior mean moves with the data."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from pyro import poutine
from torch import Tensor

from pvae._validation import at_least
from pvae.evaluation.context import EvaluationContext, context_of, parts
from pvae.pair.interventions import at_means
from pvae.pair.plate import to_rows
from pvae.pair.tiling import tiled
from pvae.pair.traces import sample_sites

__all__ = ["ActiveUnits", "SiteActivity", "active_units"]


@dataclass(frozen=True)
class SiteActivity:
    """The activity of one latent site's D coordinates.

    Attributes:
        variance: A_u = Cov_x(E_q[z_u]) by coordinate, shape (D,), in squared units of z.
        std_error: standard error of the variance, over data, shape (D,).
        mc_error: Monte Carlo error of the variance, shape (D,); 0 if the means are known.
        active: whether A_u is above the threshold, shape (D,), bool.

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
        >>> site = pvae.evaluation.active_units(model, guide, torch.arange(5.0)).sites["z"]
        >>> site.active, site.variance
        (tensor([True]), tensor([0.6250]))
    """

    variance: Tensor
    std_error: Tensor
    mc_error: Tensor
    active: Tensor

    @property
    def count(self) -> int:
        """Number of active coordinates."""
        return int(self.active.sum())


@dataclass(frozen=True)
class ActiveUnits:
    """Active units by latent site.

    Attributes:
        sites: by latent site in the data plate.
        threshold: variance above which a unit is active.
        num_data: number N of data.
        num_particles: draws per datum at sites without a known mean.

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
        >>> units = pvae.evaluation.active_units(model, guide, torch.arange(5.0))
        >>> units.threshold, list(units.sites)
        (0.01, ['z'])
    """

    sites: dict[str, SiteActivity]
    threshold: float
    num_data: int
    num_particles: int

    def as_json(self) -> dict[str, object]:
        """The numbers for JSON."""
        sites = {
            name: {
                "active": site.count,
                "units": len(site.variance),
                "variance": site.variance.tolist(),
                "std_error": site.std_error.tolist(),
                "mc_error": site.mc_error.tolist(),
            }
            for name, site in self.sites.items()
        }
        return {
            "threshold": self.threshold,
            "num_data": self.num_data,
            "num_particles": self.num_particles,
            "sites": sites,
        }


def active_units(
    model: Callable[..., object],
    guide: Callable[..., object],
    data: object,
    *,
    threshold: float = 0.01,
    num_particles: int = 64,
    seed: int = 0,
) -> ActiveUnits:
    """Count the latent coordinates u with A_u = Cov_x(E_q(u | x)[u]) above a threshold.

    The means are those of `pvae.infer`: the mean of q at each site, given the means at the sites
    before it. Sites without a mean in closed form (flows) use averages of draws, and the variance
    that these add is subtracted. Means after a discrete site are conditional on its draw. Global
    sites are left out.

    References:
        Importance Weighted Autoencoders (Y. Burda, R. Grosse, R. Salakhutdinov, 2015),
        https://arxiv.org/abs/1509.00519, section 5.

    Args:
        model: p(x, z), called with one batch.
        guide: q(z | x), called with the same.
        data: a tensor of shape (N, ...), N at least 2, a tuple of tensors, or a split of a data
            set.
        threshold: variance above which a unit is active, at least 0.
        num_particles: draws per datum at sites whose mean is not known, at least 2.
        seed: seeds the draws.

    Returns:
        An `ActiveUnits`: by site `.sites["z"].variance` (D,), `.active` (D,) and `.count`.

    Raises:
        ValueError: if a number is out of range, there is one datum alone, or
            (`UndefinedQuantityError`) there is no vectorized data plate with a latent site.

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
        >>> _ = torch.manual_seed(0)
        >>> units = pvae.evaluation.active_units(model, guide, torch.randn(1000) * 2**0.5)
        >>> units.sites["z"].count, round(units.sites["z"].variance.item(), 1)  # Var(x / 2)
        (1, 0.5)
    """
    at_least(0, threshold=threshold)
    at_least(2, num_particles=num_particles)
    means: dict[str, list[Tensor]] = {}
    noises: dict[str, list[Tensor]] = {}
    context = context_of(model, guide, data)
    names = context.require_latent_sites(allow_global=True)
    with context.evaluating(seed):
        size = len(context.source)
        if size < 2:
            raise ValueError("the data have 1 row: the variance over data needs at least 2")
        for part in parts(size, context.rows_per_run()):
            batch = context.source.arguments(part)
            for name, (mean, noise) in _means(guide, context, batch, num_particles).items():
                means.setdefault(name, []).append(mean.double().cpu())
                noises.setdefault(name, []).append(noise.double().cpu())
    sites = {
        name: _activity(torch.cat(means[name]), torch.cat(noises[name]), threshold)
        for name in names
    }
    return ActiveUnits(sites, threshold, size, num_particles)


def _means(
    guide: Callable[..., object],
    context: EvaluationContext,
    batch: tuple[Tensor, ...],
    num_particles: int,
) -> dict[str, tuple[Tensor, Tensor]]:
    """By site, the mean of q and the variance of its estimate, each (rows, D)."""
    rows = len(batch[0])
    found: dict[str, tuple[Tensor, Tensor]] = {}
    sites = dict(sample_sites(poutine.trace(at_means(guide)).get_trace(*batch)))
    for name in context.latent_sites:
        mean = _known_mean(sites[name]["fn"])
        if mean is not None:
            event_dim = len(sites[name]["fn"].event_shape)
            flat = to_rows(mean, context.frame(sites[name]), event_dim).reshape(rows, -1)
            found[name] = flat, torch.zeros_like(flat)
    drawn = [name for name in context.latent_sites if name not in found]
    if not drawn:
        return found
    first: dict[str, Tensor] = {}
    second: dict[str, Tensor] = {}
    for part in parts(num_particles, context.rows_per_run() // rows):
        count = part.stop - part.start
        values = context.values(poutine.trace(guide).get_trace(*tiled(batch, count)))
        for name in drawn:
            draws = values[name].double().reshape(count, rows, -1)
            first[name] = first.get(name, 0.0) + draws.sum(0)
            second[name] = second.get(name, 0.0) + draws.square().sum(0)
    for name in drawn:
        mean = first[name] / num_particles
        spread = (second[name] / num_particles - mean.square()).clamp(min=0)
        found[name] = mean, spread / (num_particles - 1)
    return found


def _known_mean(fn: object) -> Tensor | None:
    """The mean of a distribution; None if it is unknown or not finite."""
    try:
        mean = fn.mean  # type: ignore[attr-defined]
    except NotImplementedError:
        return None
    return mean if isinstance(mean, Tensor) and bool(torch.isfinite(mean).all()) else None


def _activity(means: Tensor, noises: Tensor, threshold: float) -> SiteActivity:
    size = len(means)
    centred = means - means.mean(0)
    variance = centred.square().sum(0) / (size - 1) - noises.mean(0)
    # The delta method, over data and over draws.
    std_error = centred.square().std(0) / math.sqrt(size)
    mc_error = 2 * (centred.square() * noises).sum(0).sqrt() / (size - 1)
    return SiteActivity(
        variance.float(), std_error.float(), mc_error.float(), (variance > threshold).cpu()
    )
