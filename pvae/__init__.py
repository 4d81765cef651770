"""Variational autoencoders by probabilistic programming: train and evaluate any Pyro pair."""

import importlib
from typing import TYPE_CHECKING

from pvae import data, evaluation, guides, likelihoods, models, nn, objectives, priors
from pvae.checking import PairError, Report, check
from pvae.evaluation import (
    UndefinedQuantityError,
    ais,
    bdmc,
    elbo,
    impute,
    log_likelihood,
    log_predictive,
)
from pvae.objectives import IncompatibleObjectiveError
from pvae.pair.posterior import marginals, posterior
from pvae.pair.predictive import decode, infer, interpolate, predict, reconstruct, sample
from pvae.svi import SVI
from pvae.training import DivergedError, Fit, fit, load

if TYPE_CHECKING:
    from pvae import plots

__all__ = [
    "SVI",
    "DivergedError",
    "Fit",
    "IncompatibleObjectiveError",
    "PairError",
    "Report",
    "UndefinedQuantityError",
    "ais",
    "bdmc",
    "check",
    "data",
    "decode",
    "elbo",
    "evaluation",
    "fit",
    "guides",
    "impute",
    "infer",
    "interpolate",
    "likelihoods",
    "load",
    "log_likelihood",
    "log_predictive",
    "marginals",
    "models",
    "nn",
    "objectives",
    "plots",
    "posterior",
    "predict",
    "priors",
    "reconstruct",
    "sample",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Import `pvae.plots`, which needs matplotlib, on first use."""
    if name == "plots":
        return importlib.import_module("pvae.plots")
    raise AttributeError(f"module 'pvae' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
