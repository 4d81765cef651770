"""Variational autoencoders by probabilistic programming: any Pyro model and guide, end to end."""

from pvae import data, guides, likelihoods, models, nn, plots
from pvae.loading import load
from pvae.evaluation import elbo, log_likelihood
from pvae.programs import infer, reconstruct, sample
from pvae.svi import SVI
from pvae.training import fit

__version__ = "0.1.0"
