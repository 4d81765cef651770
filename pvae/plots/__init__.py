"""Figures of data, codes and trainings; every function returns a matplotlib `Figure`."""

from pvae.plots.pictures import (
    is_image,
    latent_means,
    learning_curve,
    manifold,
    prior_samples,
    reconstructions,
)
from pvae.plots.rows import by_label, imputations, interpolations, traversals

__all__ = [
    "by_label",
    "imputations",
    "interpolations",
    "is_image",
    "latent_means",
    "learning_curve",
    "manifold",
    "prior_samples",
    "reconstructions",
    "traversals",
]
