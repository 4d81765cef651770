"""What came out of a run: numbers on data, as a table and as JSON, and pictures."""

from collections.abc import Callable, Mapping

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pvae import plots
from pvae.data import Rows
from pvae.evaluation import Bound, LogLikelihood, elbo, log_likelihood
from pvae.fits import Fit
from pvae.programs import decode, infer, reconstruct, sample
from pvae.randomness import seeded

__all__ = ["Report", "evaluate", "figures", "observed_name", "table"]

_BOUND_PARTICLES = 10


class Report:
    """The numbers of a pair on one split of the data.

    Attributes:
        split: name of the split.
        bound: the evidence lower bound.
        likelihood: the importance-sampled log-likelihood, or None where the evidence does not split
            by datum.
        missing: why there is no log-likelihood, in a sentence.
    """

    def __init__(
        self, split: str, bound: Bound, likelihood: LogLikelihood | None, missing: str = ""
    ) -> None:
        self.split, self.bound, self.likelihood, self.missing = split, bound, likelihood, missing

    def as_json(self) -> dict[str, object]:
        """The numbers, in nats per datum."""
        found: dict[str, object] = {"elbo": self.bound.as_json(), "sites": self.bound.sites}
        if self.likelihood is not None:
            found["log_likelihood"] = self.likelihood.as_json()
        return {"split": self.split, "rows": len(self.bound.per_datum), **found}

    def lines(self) -> list[tuple[str, str]]:
        """What the table says: a name and a sentence a line."""
        rows = f"{len(self.bound.per_datum):,} {self.split} rows"
        lines = [
            (f"{self.split} ELBO", f"{_number(self.bound)}, a lower bound on log p(x); {rows}")
        ]
        lines += [(f"  {site}", f"{value:.2f}") for site, value in self.bound.sites.items()]
        if self.likelihood is None:
            return [*lines, ("log-likelihood", self.missing)]
        particles = f"{self.likelihood.num_particles:,} importance samples, low in expectation"
        return [*lines, ("log-likelihood", f"{_number(self.likelihood)}, by {particles}")]


def _number(estimate: Bound | LogLikelihood) -> str:
    monte_carlo = f", {estimate.mc_error:.3f} Monte Carlo" if estimate.mc_error >= 0 else ""
    return f"{estimate.mean:.2f} nats (standard errors {estimate.std_error:.2f} data{monte_carlo})"


def evaluate(
    fit: Fit, rows: Rows, split: str, particles: int, *, seed: int = 0, progress: bool = True
) -> Report:
    """Evaluate a trained pair on a split.

    Args:
        fit: the trained pair.
        rows: the split.
        split: its name.
        particles: importance samples per datum.
        seed: seeds the draws.
        progress: show a progress bar.
    """
    few = min(particles, _BOUND_PARTICLES)
    bound = elbo(fit.model, fit.guide, rows, few, seed=seed, progress=progress)
    try:
        likelihood = log_likelihood(
            fit.model, fit.guide, rows, particles, seed=seed, progress=progress
        )
    except ValueError as error:
        return Report(split, bound, None, str(error))
    return Report(split, bound, likelihood)


def figures(fit: Fit, rows: Rows, *, seed: int = 0) -> dict[str, Figure]:
    """The pictures that a pair allows for: by file name, without its ending.

    Args:
        fit: the trained pair.
        rows: data to reconstruct and to encode; labels colour the latent means.
        seed: seeds the draws.
    """
    drawn: dict[str, Figure] = {}
    if fit.history:
        drawn["learning_curve"] = plots.learning_curve(fit.history)
    # Spread over the rows, since some data sets are sorted by class.
    x = rows.arguments(torch.linspace(0, len(rows) - 1, min(64, len(rows))).long())
    with seeded(seed):
        draws = sample(fit.model, x)
        codes = infer(fit.guide, rows)
    observed = observed_name(draws, x)
    if observed is not None:
        rebuilt = reconstruct(fit.model, fit.guide, x, site=observed)
        drawn["reconstructions"] = plots.reconstructions(x[0].cpu(), rebuilt.cpu())
        prior = {site: draws[site] for site in codes if site in draws}
        means = decode(fit.model, prior, x, site=observed)
        drawn["samples"] = plots.prior_samples(means.cpu())
    local = {n: z for n, z in codes.items() if z.shape[:1] == (len(rows),) and z.dim() <= 2}
    if local:
        name, z = next(iter(local.items()))
        drawn["latent_means"] = plots.latent_means(z.reshape(len(rows), -1).cpu(), rows.labels)
        if observed and len(local) == 1 and z.shape[1:] == (2,) and plots.is_image(x[0]):
            drawn["manifold"] = plots.manifold(_decoder(fit.model, name, x, observed))
    return drawn


def observed_name(draws: Mapping[str, Tensor], x: tuple[Tensor, ...]) -> str | None:
    """The site that draws data like the first argument of the programs, if there is one."""
    like = [name for name, value in draws.items() if value.shape[1:] == x[0].shape[1:]]
    return "x" if "x" in like else next(iter(like), None)


def _decoder(
    model: Callable[..., object], site: str, like: tuple[Tensor, ...], observed: str
) -> Callable[[Tensor], Tensor]:
    def decoded(z: Tensor) -> Tensor:
        rows = torch.arange(len(z)) % len(like[0])
        return decode(model, {site: z}, tuple(part[rows] for part in like), site=observed).cpu()

    return decoded


def table(lines: list[tuple[str, str]]) -> str:
    """Lines of a name and a text, aligned."""
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in lines)
