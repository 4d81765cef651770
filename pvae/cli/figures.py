"""Draw the figures of a trained pair; matplotlib is imported on first use, since it is slow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

import torch
from pyro import poutine
from torch import Tensor

from pvae.data import Rows
from pvae.evaluation import UndefinedQuantityError, impute
from pvae.pair.predictive import decode, infer, interpolate, reconstruct, sample
from pvae.pair.preserve import preserve_generators, seeded
from pvae.pair.traces import Site, latent_sites
from pvae.training import Fit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["figures", "observed_name"]

_MEANS = "means of p(x | z) at draws from p(z)"


def figures(fit: Fit, rows: Rows, *, seed: int = 0) -> dict[str, Figure]:
    """The figures that a pair allows, by file name without its suffix.

    Args:
        fit: the trained pair.
        rows: data to reconstruct and to encode; labels colour the latent means.
        seed: seeds the draws.
    """
    from pvae import plots

    drawn: dict[str, Figure] = {}
    if fit.history:
        drawn["learning_curve"] = plots.learning_curve(fit.history, best_epoch=fit.best_epoch)
    # Spread over the rows, since some data sets are sorted by class.
    chosen = torch.linspace(0, len(rows) - 1, min(64, len(rows))).long()
    some = rows[chosen]
    x = some.first(len(some))
    given = _labels_given(rows, chosen, x)
    with seeded(seed):
        codes = infer(fit.guide, rows)
        # Global sites, such as weights, have their values after the training, not prior ones.
        prior = _latents(fit.model, x)
        fixed = {n: code for n, code in codes.items() if n in prior and _is_global(code, rows)}
        draws = sample(fit.model, x, given=fixed)
    observed = observed_name(draws, x)
    if observed is not None:
        rebuilt = _site(reconstruct(fit.model, fit.guide, some), observed)
        seen = x[0].nan_to_num().cpu()
        drawn["reconstructions"] = plots.reconstructions(seen, rebuilt, labels=given)
        # Draws have no meaning where a density is masked out.
        if not any(getattr(site["fn"], "_mask", None) is False for site in prior.values()):
            found = {site: draws[site] for site in codes if site in draws}
            means = _site(decode(fit.model, found, x), observed)
            drawn["samples"] = plots.prior_samples(means, labels=given, title=_MEANS)
        drawn |= _of_codes(fit, some, codes, observed, seed)
    local = {n: z for n, z in codes.items() if z.shape[:1] == (len(rows),) and z.dim() <= 2}
    if local:
        # Classes, such as a label y, have no place in a plane.
        continuous = {n: z for n, z in local.items() if z.is_floating_point()}
        name, z = next(iter((continuous or local).items()))
        drawn["latent_means"] = plots.latent_means(z.reshape(len(rows), -1).cpu(), rows.labels)
        if observed and len(local) == 1 and z.shape[1:] == (2,) and plots.is_image(x[0]):
            title = "means of p(x | z)" if given is None else f"means of p(x | z, y = {given[0]})"
            decoder = _decoder(fit.model, name, x, observed)
            drawn["manifold"] = plots.manifold(decoder, title=title)
    return drawn


def _of_codes(
    fit: Fit, some: Rows, codes: Mapping[str, Tensor], observed: str, seed: int
) -> dict[str, Figure]:
    """Walks through latent space, draws by label, and imputations, of images."""
    from pvae import plots

    x = some.first(len(some))
    drawn: dict[str, Figure] = {}
    if not plots.is_image(x[0]):
        return drawn
    if some.missing is not None:
        with suppress(UndefinedQuantityError):
            found = impute(fit.model, fit.guide, some, num_samples=3, seed=seed)
            drawn["imputations"] = plots.imputations(x[0], found.missing, found.draws)
    half = min(8, len(some) // 2)
    if half:
        with suppress(UndefinedQuantityError):
            walks = interpolate(fit.model, fit.guide, some[:half], some[half : 2 * half], 10)
            drawn["interpolations"] = plots.interpolations(_site(walks, observed))
    names = [n for n, z in codes.items() if z.is_floating_point() and z.dim() == 2]
    if names and len(codes) == 1:
        name, steps = names[0], torch.linspace(-2.5, 2.5, 11)
        variables = min(10, codes[name].shape[1])
        z = infer(fit.guide, some[:1])[name].repeat(variables * len(steps), 1)
        z[torch.arange(len(z)), torch.arange(variables).repeat_interleave(len(steps))] = (
            steps.repeat(variables).to(z)
        )
        means = _decoder(fit.model, name, x, observed)(z)
        shown = means.reshape(variables, len(steps), *means.shape[1:])
        of = [f"{name}[{i}]" for i in range(variables)]
        drawn["traversals"] = plots.traversals(shown, steps.tolist(), names=of)
    labels = some.labels
    if labels is not None:
        with suppress(ValueError), seeded(seed):  # most models have no label y
            classes = sorted(set(labels.tolist()))
            like = tuple(part[:1].expand(8, *part.shape[1:]) for part in x)
            rows = [sample(fit.model, like, given={"y": y}, mean=True)[observed] for y in classes]
            drawn["by_label"] = plots.by_label(torch.stack(rows), classes, title="means given y")
    return drawn


def _latents(model: Callable[..., object], x: tuple[Tensor, ...]) -> dict[str, Site]:
    with torch.no_grad(), preserve_generators():
        return latent_sites(poutine.trace(model).get_trace(*x))


def _is_global(code: Tensor, rows: Rows) -> bool:
    return code.shape[:1] != (len(rows),)


def observed_name(draws: Mapping[str, Tensor], x: tuple[Tensor, ...]) -> str | None:
    """The site whose draws have the shape of the programs' first argument, or None."""
    like = [name for name, value in draws.items() if value.shape[1:] == x[0].shape[1:]]
    return "x" if "x" in like else next(iter(like), None)


def _labels_given(rows: Rows, chosen: Tensor, x: tuple[Tensor, ...]) -> Tensor | None:
    """The labels of the chosen rows if they are an argument of the programs."""
    if rows.labels is None or len(x) < 2:
        return None
    labels = rows.labels[chosen]
    return labels.cpu() if torch.equal(x[-1], labels) else None


def _decoder(
    model: Callable[..., object], site: str, like: tuple[Tensor, ...], observed: str
) -> Callable[[Tensor], Tensor]:
    def decoded(z: Tensor) -> Tensor:
        # Further arguments, such as a label, are those of the first row.
        first = tuple(part[:1].expand(len(z), *part.shape[1:]) for part in like)
        return _site(decode(model, {site: z}, first), observed)

    return decoded


def _site(found: Tensor | dict[str, Tensor], name: str) -> Tensor:
    """The value of one observed site, on the CPU."""
    return (found[name] if isinstance(found, dict) else found).cpu()
