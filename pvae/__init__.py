"""Variational autoencoders by probabilistic programming: any Pyro model and guide, end to end."""

from pvae import data, evaluation, guides, likelihoods, models, nn, objectives, plots
from pvae.checking import check
from pvae.evaluation import ais, bdmc, elbo, log_likelihood
from pvae.pair.predictive import infer, reconstruct, sample
from pvae.svi import SVI
from pvae.training.fitting import fit
from pvae.training.loading import load

__all__ = [
    "SVI",
    "ais",
    "bdmc",
    "check",
    "data",
    "elbo",
    "evaluation",
    "fit",
    "guides",
    "infer",
    "likelihoods",
    "load",
    "log_likelihood",
    "models",
    "nn",
    "objectives",
    "plots",
    "reconstruct",
    "sample",
]

__version__ = "0.1.0"
