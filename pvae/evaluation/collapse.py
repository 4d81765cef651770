"""The use of the latent space: divergences, information, active units, collapse."""

from collections.abc import Callable
from dataclasses import dataclass

from pvae.evaluation.activity import ActiveUnits, active_units
from pvae.evaluation.aggregated_posterior import Information, information
from pvae.evaluation.estimate import UndefinedQuantityError
from pvae.evaluation.kl_divergence import Divergence, kl_by_site

__all__ = ["LatentUse", "latent_use"]

# Nats per datum below which a site's posterior is called its prior.
_COLLAPSED = 0.01


@dataclass(frozen=True)
class LatentUse:
    """What each latent site of a pair carries.

    Attributes:
        divergence: KL(q || p) by latent site.
        active: active units by latent site.
        information: mutual information and the aggregated posterior's divergence from the prior,
            over all latent sites; None if it is not defined for the pair.
        undefined: why it is not defined, in words, or "".

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
        >>> use = pvae.evaluation.latent_use(model, guide, torch.randn(50))
        >>> use.collapsed, use.active.sites["z"].count
        ({}, 1)
    """

    divergence: dict[str, Divergence]
    active: ActiveUnits
    information: Information | None
    undefined: str = ""

    @property
    def collapsed(self) -> dict[str, str]:
        """Sites whose posterior has collapsed to the prior, with the reason."""
        found = {}
        for name, site in self.divergence.items():
            units = self.active.sites[name]
            if abs(site.mean) < _COLLAPSED:
                found[name] = (
                    f"KL(q || p) is {site.mean:.2g} nats per datum, below {_COLLAPSED:g}: the "
                    "posterior equals the prior"
                )
            elif units.count == 0:
                found[name] = (
                    f"none of its {len(units.variance)} units is active: the variance of every "
                    f"posterior mean over data is at most {self.active.threshold:g}"
                )
        return found

    @property
    def sentence(self) -> str:
        """The collapsed sites, and how many units and nats the others use, in words."""
        collapsed = self.collapsed
        said = [f"site {name!r} has collapsed: {reason}" for name, reason in collapsed.items()]
        for name, site in self.active.sites.items():
            if name not in collapsed:
                said.append(
                    f"site {name!r} uses {site.count} of {len(site.variance)} units and "
                    f"{self.divergence[name].mean:.3g} nats per datum"
                )
        if self.information is not None:
            said.append(self.information.sentence)
        return "; ".join(said)

    def as_json(self) -> dict[str, object]:
        """The numbers for JSON."""
        return {
            "kl": {name: site.as_json() for name, site in self.divergence.items()},
            "active_units": self.active.as_json(),
            "information": None if self.information is None else self.information.as_json(),
            "undefined": self.undefined or None,
            "collapsed": self.collapsed,
            "sentence": self.sentence,
        }


def latent_use(
    model: Callable[..., object],
    guide: Callable[..., object],
    data: object,
    *,
    threshold: float = 0.01,
    num_data: int = 1000,
    num_particles: int = 10,
    seed: int = 0,
) -> LatentUse:
    """Measure what each latent site carries, and name collapsed sites.

    References:
        Generating Sentences from a Continuous Space (S. R. Bowman, L. Vilnis, O. Vinyals,
        A. M. Dai, R. Jozefowicz, S. Bengio, 2015), https://arxiv.org/abs/1511.06349, for the
        collapse; see also `active_units`, `kl_by_site` and `information`.

    Args:
        model: p(x, z), called with one batch.
        guide: q(z | x), called with the same arguments.
        data: a tensor of shape (N, ...), N at least 2, a tuple of such, or a split of a data set.
        threshold: variance of a posterior mean over data above which a unit is active.
        num_data: largest number of data for the mutual information, whose cost grows quadratically.
        num_particles: draws from the guide per datum, at least 1.
        seed: seeds the draws.

    Returns:
        A `LatentUse`: `.divergence`, `.active`, `.information`, `.collapsed`, `.sentence`.

    Raises:
        ValueError: if a number is out of range, there is one datum alone, or there is no vectorized
            data plate with a latent site.

    Example:
        >>> import pyro, torch
        >>> import pyro.distributions as dist
        >>> from pvae.evaluation import latent_use
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
        ...         pyro.sample("x", dist.Normal(0.001 * z, 1.0), obs=x)
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(0.001 * x, 1.0))
        >>> use = latent_use(model, guide, torch.randn(50))
        >>> use.collapsed
        {'z': 'KL(q || p) is ... nats per datum, below 0.01: the posterior equals the prior'}
    """
    divergence = kl_by_site(model, guide, data, num_particles=num_particles, seed=seed)
    active = active_units(model, guide, data, threshold=threshold, seed=seed)
    try:
        parts = information(model, guide, data, num_data=num_data, seed=seed)
    except UndefinedQuantityError as error:
        return LatentUse(divergence, active, None, str(error))
    return LatentUse(divergence, active, parts)
