"""The pictures that a trained pair allows for."""

from collections.abc import Callable, Mapping

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pvae import plots
from pvae.data import Rows
from pvae.pair.predictive import decode, infer, reconstruct, sample
from pvae.pair.preserve import seeded
from pvae.training.result import Fit

__all__ = ["figures", "observed_name"]


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
