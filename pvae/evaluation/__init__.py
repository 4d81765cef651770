"""What a trained pair is worth: one quantity a file, each with its errors."""

from pvae.evaluation.aevb import marginal_by_hmc
from pvae.evaluation.annealed_importance import ais
from pvae.evaluation.bidirectional import Sandwich, bdmc
from pvae.evaluation.bound import elbo
from pvae.evaluation.estimate import AnnealedLogLikelihood, Bound, Estimate, LogLikelihood
from pvae.evaluation.importance import log_likelihood

__all__ = [
    "AnnealedLogLikelihood",
    "Bound",
    "Estimate",
    "LogLikelihood",
    "Sandwich",
    "ais",
    "bdmc",
    "elbo",
    "log_likelihood",
    "marginal_by_hmc",
]
