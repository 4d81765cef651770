"""What a trained pair is worth: one quantity a file, each with its errors."""

from pvae.evaluation.bound import elbo
from pvae.evaluation.estimate import Bound, Estimate, LogLikelihood
from pvae.evaluation.importance import log_likelihood

__all__ = ["Bound", "Estimate", "LogLikelihood", "elbo", "log_likelihood"]
