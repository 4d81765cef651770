"""What a trained pair is worth: one quantity a file, each with its errors."""

from pvae.evaluation.activity import ActiveUnits, SiteActivity, active_units
from pvae.evaluation.aggregated import Information, information
from pvae.evaluation.amortization import AmortizationGap, amortization_gap
from pvae.evaluation.bound import elbo
from pvae.evaluation.collapse import LatentUse, latent_use
from pvae.evaluation.divergence import Divergence, kl_by_site
from pvae.evaluation.estimate import Bound, Estimate, LogLikelihood
from pvae.evaluation.importance import log_likelihood
from pvae.evaluation.latents import UndefinedError
from pvae.evaluation.ranks import Calibration, SiteCalibration, calibration

__all__ = [
    "ActiveUnits",
    "AmortizationGap",
    "Bound",
    "Calibration",
    "Divergence",
    "Estimate",
    "Information",
    "LatentUse",
    "LogLikelihood",
    "SiteActivity",
    "SiteCalibration",
    "UndefinedError",
    "active_units",
    "amortization_gap",
    "calibration",
    "elbo",
    "information",
    "kl_by_site",
    "latent_use",
    "log_likelihood",
]
