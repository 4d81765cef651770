"""Estimates: a mean over data, with its standard error over data and its Monte Carlo error."""

import math
from dataclasses import dataclass, field

from torch import Tensor

from pvae.evaluation.pareto import trusted_below
from pvae.pair.undefined import UndefinedQuantityError

__all__ = [
    "AnnealedLogLikelihood",
    "Bound",
    "Estimate",
    "LogLikelihood",
    "UndefinedQuantityError",
    "of_weights",
]


def of_weights(first: Tensor, second: Tensor, num_particles: int) -> tuple[Tensor, Tensor, float]:
    """log mean_k w_k and the effective sample size of each datum, (N,); and the Monte Carlo error.

    Args:
        first: log sum_k w_k, shape (N,).
        second: log sum_k w_k^2, shape (N,).
        num_particles: number K of weights.
    """
    ess = (2 * first - second).exp()
    # The delta method: var(log w-bar) = var(w) / (K mean(w)^2) = 1 / ess - 1 / K.
    variances = (1 / ess - 1 / num_particles).clamp(min=0)
    mc_error = math.sqrt(variances.sum().item()) / len(first) if num_particles > 1 else math.nan
    return first - math.log(num_particles), ess, mc_error


@dataclass(frozen=True)
class Estimate:
    """A quantity in nats per datum, averaged over a data set.

    Attributes:
        mean: the mean over data.
        std_error: the standard error of the mean over data: how much another sample of data would
            change it.
        mc_error: the Monte Carlo standard error on these data: how much another seed would change
            the mean; NaN if one particle cannot show it.
        num_particles: draws from the guide per datum.
        per_datum: shape (N,), on the CPU.

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
        >>> estimate = pvae.elbo(model, guide, torch.zeros(3))
        >>> estimate.per_datum.shape, estimate.num_particles
        (torch.Size([3]), 1)
    """

    mean: float
    std_error: float
    mc_error: float
    num_particles: int
    per_datum: Tensor = field(repr=False)

    def as_json(self) -> dict[str, object]:
        """The numbers for JSON; unknown errors are None."""
        numbers = {"mean": self.mean, "std_error": self.std_error, "mc_error": self.mc_error}
        finite = {key: value if math.isfinite(value) else None for key, value in numbers.items()}
        return {**finite, "num_particles": self.num_particles}

    @staticmethod
    def over_data(per_datum: Tensor) -> tuple[float, float]:
        """Mean and standard error over data of values of shape (N,)."""
        spread = per_datum.std().item() if len(per_datum) > 1 else math.nan
        return per_datum.mean().item(), spread / math.sqrt(len(per_datum))


@dataclass(frozen=True)
class Bound(Estimate):
    """An estimate of the evidence lower bound.

    Attributes:
        sites: the bound's terms in nats per datum: the expected log-likelihood of an observed site,
            minus the divergence from posterior to prior of a latent one. They add up to `mean`.
            Sites that share a site that is summed out have one term, under their joined names.
        points: sites at which the guide is a point mass: the mean is then a bound on (without other
            latent sites, an estimate of) the joint log p(x, points), and no bound on log p(x).
        global_sites: global sites, whose terms count once in `data_size` data.
        data_size: number of data that the global sites were trained on; None without such sites.

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
        >>> bound = pvae.elbo(model, guide, torch.zeros(3))
        >>> sorted(bound.sites), abs(sum(bound.sites.values()) - bound.mean) < 1e-5
        (['x', 'z'], True)
    """

    sites: dict[str, float]
    points: tuple[str, ...] = ()
    global_sites: tuple[str, ...] = ()
    data_size: int | None = None

    @property
    def quantity(self) -> str:
        """What is bounded: "log p(x)", or with point masses, say, "log p(x, z)"."""
        return f"log p({', '.join(('x', *self.points))})"

    @property
    def note(self) -> str:
        """What to know about the number beyond its name, in sentences; "" if nothing."""
        notes = []
        if self.points:
            notes.append(
                f"sites {list(self.points)} of the guide are point masses, so this is about "
                f"{self.quantity}, a density in these sites, and no bound on log p(x)"
            )
        if self.data_size is not None:
            notes.append(
                f"the terms of global sites {list(self.global_sites)} count 1 / "
                f"{self.data_size:,} per datum"
            )
        return "; ".join(notes)

    def as_json(self) -> dict[str, object]:
        """The numbers for JSON."""
        more = {} if self.data_size is None else {"data_size": self.data_size}
        return {**super().as_json(), "quantity": self.quantity, **more}


@dataclass(frozen=True)
class LogLikelihood(Estimate):
    """An importance-sampling estimate of log p(x): in expectation a lower bound.

    Attributes:
        ess: effective sample size of the importance weights per datum, shape (N,), in [1, K].
        khat: the shape of the weights' tail per datum, shape (N,): below 0.5 their variance is
            finite. Infinity if most of the tail ties with its cutoff; NaN if there are too few
            particles, or the largest weights are all equal: both say nothing about the estimate.
        dims: mean number of observed elements of a datum if each takes one of several levels, as in
            discretized images; None for binary and real data.

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
        >>> estimate = pvae.log_likelihood(model, guide, torch.zeros(3), num_particles=100)
        >>> estimate.ess, len(estimate.untrusted), estimate.warning
        (tensor([100..., 100..., 100...]), 0, '')
    """

    ess: Tensor = field(repr=False)
    khat: Tensor = field(repr=False)
    dims: float | None = None

    @property
    def bits_per_dim(self) -> float | None:
        """The code length -log2 p(x) per element, in bits: an upper bound in expectation."""
        return None if self.dims is None else -self.mean / (self.dims * math.log(2))

    @property
    def untrusted(self) -> Tensor:
        """Indices of the data whose weights have a tail too heavy for this number of particles."""
        return (self.khat > trusted_below(self.num_particles)).nonzero().flatten()

    @property
    def unknown(self) -> Tensor:
        """Indices of the data of which khat says nothing, since it is NaN."""
        return self.khat.isnan().nonzero().flatten()

    @property
    def warning(self) -> str:
        """Which data are unreliable, and why; "" if none."""
        count, size = len(self.untrusted), len(self.khat)
        if not count:
            return ""
        first = ", ".join(map(str, self.untrusted[:5].tolist()))
        limit = trusted_below(self.num_particles)
        return (
            f"the importance weights of {count:,} of {size:,} data have Pareto k above {limit:.2f} "
            f"(indices {first}{', ...' if count > 5 else ''}): the guide has thinner tails than "
            "the "
            "posterior, so their estimates are too low by an unknown amount and their errors too "
            "small; use more particles, or pvae.ais"
        )

    def as_json(self) -> dict[str, object]:
        """The numbers for JSON, with the number of unreliable data."""
        finite = self.khat[self.khat.isfinite()]
        tail = {
            "largest_khat": finite.max().item() if len(finite) else None,
            "untrusted": len(self.untrusted),
            "unknown": len(self.unknown),
        }
        bits = {} if self.dims is None else {"bits_per_dim": self.bits_per_dim}
        return {**super().as_json(), "mean_ess": self.ess.mean().item(), **tail, **bits}


@dataclass(frozen=True)
class AnnealedLogLikelihood(Estimate):
    """An estimate of log p(x) by annealed importance sampling.

    In expectation it is a lower bound if chains run from the start density to the posterior, and an
    upper bound if they run in reverse from an exact draw of the posterior.

    Attributes:
        ess: effective sample size of the chains' weights per datum, shape (N,), in [1, K].
        acceptance: mean acceptance probability per datum, shape (N,), in [0, 1]; NaN without
            transitions.

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
        >>> estimate = pvae.ais(model, guide, torch.zeros(3), 4, 20)
        >>> estimate.ess.shape, bool((estimate.acceptance > 0.5).all())
        (torch.Size([3]), True)
    """

    ess: Tensor = field(repr=False)
    acceptance: Tensor = field(repr=False)

    def as_json(self) -> dict[str, object]:
        """The numbers for JSON."""
        means = {"mean_ess": self.ess.mean().item(), "acceptance": self.acceptance.mean().item()}
        return {**super().as_json(), "num_data": len(self.per_datum), **means}
