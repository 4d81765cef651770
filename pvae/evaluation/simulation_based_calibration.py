"""Simulation-based calibration of the guide."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from pyro import poutine
from torch import Tensor

from pvae._validation import at_least
from pvae.evaluation.context import EvaluationContext, context_of, parts
from pvae.pair.simulation import arguments_observed, simulate
from pvae.pair.tiling import tiled

__all__ = ["Calibration", "SiteCalibration", "calibration"]

# The guide is called not calibrated below this overall p-value.
_LEVEL = 0.01
_WIDE, _NARROW = "wide (over-dispersed)", "narrow (under-dispersed)"


@dataclass(frozen=True)
class SiteCalibration:
    """The ranks of one latent site's D coordinates.

    Attributes:
        ranks: how many of the L draws lie below the truth, integers in [0, L], shape (N, D).
        histogram: counts of ranks, shape (D, bins).
        p_values: p-values of the chi-square test of a uniform histogram, shape (D,).
        bias: mean rank over L, minus 1/2, shape (D,), in [-1/2, 1/2]: positive if draws are too
            low.
        bias_error: its standard error under a calibrated guide.
        dispersion: variance of the ranks relative to uniform ranks, minus 1, shape (D,): negative
            if the guide is too wide, positive if it is too narrow.
        dispersion_error: its standard error under a calibrated guide.

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
        >>> found = pvae.evaluation.calibration(model, guide, torch.zeros(1), num_data=100)
        >>> found.sites["z"].ranks.shape, found.sites["z"].histogram.shape
        (torch.Size([100, 1]), torch.Size([1, 20]))
    """

    ranks: Tensor = field(repr=False)
    histogram: Tensor = field(repr=False)
    p_values: Tensor
    bias: Tensor
    bias_error: float
    dispersion: Tensor
    dispersion_error: float

    def as_json(self) -> dict[str, object]:
        """The numbers for JSON, without the ranks of each datum."""
        return {
            "p_values": self.p_values.tolist(),
            "histogram": self.histogram.tolist(),
            "bias": self.bias.tolist(),
            "bias_error": self.bias_error,
            "dispersion": self.dispersion.tolist(),
            "dispersion_error": self.dispersion_error,
        }


@dataclass(frozen=True)
class Calibration:
    """The outcome of simulation-based calibration.

    Attributes:
        p_value: of all coordinates of all sites together, corrected for their number (Bonferroni;
            Holm's first step), in [0, 1].
        num_draws: draws L from the guide per datum.
        num_data: number N of simulated data.
        sites: by latent site.

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
        >>> found = pvae.evaluation.calibration(model, guide, torch.zeros(1))
        >>> found.p_value > 0.01, found.num_draws
        (True, 99)
    """

    p_value: float
    num_draws: int
    num_data: int
    sites: dict[str, SiteCalibration]

    @property
    def _p(self) -> str:
        return f"p = {self.p_value:.2g}" if self.p_value >= 1e-6 else "p < 1e-6"

    @property
    def sentence(self) -> str:
        """The result of the test, in words."""
        if self.p_value >= _LEVEL:
            return f"no miscalibration found on {self.num_data} simulated data ({self._p})"
        found = [part for name, site in self.sites.items() for part in self._faults(name, site)]
        return f"not calibrated ({self._p}): {'; '.join(found)}"

    def _faults(self, name: str, site: SiteCalibration) -> list[str]:
        faults: dict[str, list[int]] = {}
        number = sum(len(other.p_values) for other in self.sites.values())
        for d in (site.p_values * number < _LEVEL).nonzero().flatten().tolist():
            bias = site.bias[d].item() / site.bias_error
            dispersion = site.dispersion[d].item() / site.dispersion_error
            # A bias also changes the dispersion, so only the larger of the two is named.
            if max(abs(bias), abs(dispersion)) < 3:
                words = "of another shape"
            elif abs(dispersion) > abs(bias):
                words = f"too {_WIDE if dispersion < 0 else _NARROW}"
            else:
                words = f"biased {'low' if bias > 0 else 'high'}"
            faults.setdefault(words, []).append(d)
        return [
            f"q(z | x) is {words} at site {name!r}, {_listed(coordinates)}"
            for words, coordinates in faults.items()
        ]

    def as_json(self) -> dict[str, object]:
        """The numbers for JSON."""
        return {
            "p_value": self.p_value,
            "num_draws": self.num_draws,
            "num_data": self.num_data,
            "sentence": self.sentence,
            "sites": {name: site.as_json() for name, site in self.sites.items()},
        }


def calibration(
    model: Callable[..., object],
    guide: Callable[..., object],
    like: object,
    *,
    num_draws: int = 99,
    num_data: int = 1000,
    num_bins: int = 20,
    seed: int = 0,
) -> Calibration:
    """Rank the latent variables that made simulated data among draws from q(z | x).

    The ranks are uniform if q(z | x) is the model's posterior. They concentrate in the middle if
    the guide is too wide, at both ends if it is too narrow, and at one end if it is biased. The
    test looks at single coordinates on data from the model: a guide that passes may still have
    wrong dependencies between coordinates, or be wrong on other data, and the prior passes for
    every x. Ties between discrete values are broken at random.

    References:
        Validating Bayesian Inference Algorithms with Simulation-Based Calibration (S. Talts,
        M. Betancourt, D. Simpson, A. Vehtari, A. Gelman, 2018), https://arxiv.org/abs/1804.06788

    Args:
        model: p(x, z), called with one batch.
        guide: q(z | x), called with the same arguments.
        like: data with the shape and type of the simulated data, whose values matter only for
            arguments that the model conditions on: a tensor of shape (rows, ...), a tuple of
            tensors, or a split of a data set. Rows are used in turn.
        num_draws: draws L from the guide per simulated datum, at least 1.
        num_data: number N of simulated data, at least 10.
        num_bins: largest number of bins of the histograms, at least 2; each has at least five data.
        seed: seeds the draws.

    Returns:
        A `Calibration`: `.p_value`, `.sentence`, and by site `.sites["z"].ranks` (N, D),
        `.histogram` (D, bins), `.p_values` (D,).

    Raises:
        ValueError: if a number is out of range, there is no vectorized data plate, there are global
            latent sites, or the model has factors or observes anything but its arguments unchanged.

    Example:
        >>> import pyro, torch
        >>> import pyro.distributions as dist
        >>> from pvae.evaluation import calibration
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def narrow(x):  # half as wide as the posterior
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 0.5**0.5 / 2))
        >>> print(calibration(model, narrow, torch.zeros(1)).sentence)
        not calibrated (p < 1e-6): q(z | x) is too narrow (under-dispersed) at site 'z', ...
    """
    at_least(1, num_draws=num_draws)
    at_least(10, num_data=num_data)
    at_least(2, num_bins=num_bins)
    bins = min(num_bins, num_draws + 1, num_data // 5)
    ranks: dict[str, list[Tensor]] = {}
    context = context_of(model, guide, like)
    context.require_latent_sites()
    with context.evaluating(seed):
        observed = arguments_observed(model, context.source.first(2))
        for part in parts(num_data, context.rows_per_run()):
            index = torch.arange(part.start, part.stop, device=context.source.device)
            trace, batch = simulate(
                model, context.source.arguments(index % len(context.source)), observed
            )
            truth = {
                name: value.reshape(len(value), -1) for name, value in context.values(trace).items()
            }
            for name, value in _ranks(guide, context, batch, truth, num_draws).items():
                ranks.setdefault(name, []).append(value.cpu())
    sites = {name: _tested(torch.cat(value), num_draws, bins) for name, value in ranks.items()}
    p_values = torch.cat([site.p_values for site in sites.values()])
    overall = min(1.0, len(p_values) * p_values.min().item())
    return Calibration(overall, num_draws, num_data, sites)


def _ranks(
    guide: Callable[..., object],
    context: EvaluationContext,
    batch: tuple[Tensor, ...],
    truth: dict[str, Tensor],
    num_draws: int,
) -> dict[str, Tensor]:
    """By site, the number of draws below the truth, (rows, D); ties are broken at random."""
    below = {name: torch.zeros_like(value, dtype=torch.long) for name, value in truth.items()}
    equal = {name: torch.zeros_like(count) for name, count in below.items()}
    for part in parts(num_draws, context.rows_per_run() // len(batch[0])):
        count = part.stop - part.start
        trace = poutine.trace(guide).get_trace(*tiled(batch, count))
        for name, drawn in context.values(trace).items():
            draws = drawn.reshape(count, *truth[name].shape)
            below[name] += (draws < truth[name]).sum(0)
            equal[name] += (draws == truth[name]).sum(0)
    uniform = {name: torch.rand_like(value.double()) for name, value in truth.items()}
    return {name: (below[name] + uniform[name] * (equal[name] + 1)).long() for name in below}


def _tested(ranks: Tensor, num_draws: int, bins: int) -> SiteCalibration:
    size, levels = len(ranks), num_draws + 1
    # If `bins` does not divide the number of ranks, bins cover different numbers of ranks.
    bin_of = torch.arange(levels) * bins // levels
    histogram = torch.nn.functional.one_hot(bin_of[ranks], bins).sum(0)
    expected = size * torch.bincount(bin_of, minlength=bins).double() / levels
    statistic = ((histogram - expected).square() / expected).sum(1)
    freedom = torch.tensor((bins - 1) / 2, dtype=torch.float64)
    p_values = torch.special.gammaincc(freedom, statistic / 2)
    # Moments of the discrete uniform distribution on 0, ..., L.
    centred = ranks.double() - num_draws / 2
    uniform = torch.arange(levels).double() - num_draws / 2
    variance, fourth = uniform.square().mean().item(), uniform.pow(4).mean().item()
    return SiteCalibration(
        ranks,
        histogram,
        p_values,
        (centred.mean(0) / num_draws).float(),
        math.sqrt(variance / size) / num_draws,
        (centred.square().mean(0) / variance - 1).float(),
        math.sqrt(max(fourth - variance**2, 0.0) / size) / variance,
    )


def _listed(coordinates: list[int]) -> str:
    noun = "coordinate" if len(coordinates) == 1 else "coordinates"
    more = f" and {len(coordinates) - 5} more" if len(coordinates) > 5 else ""
    return f"{noun} {', '.join(map(str, coordinates[:5]))}{more}"
