"""Measures of a trained pair, each with its errors and one a file."""

from pvae.evaluation.activity import ActiveUnits, SiteActivity, active_units
from pvae.evaluation.aggregated_posterior import Information, information
from pvae.evaluation.amortization import AmortizationGap, amortization_gap
from pvae.evaluation.annealed_importance import ais
from pvae.evaluation.bidirectional import Sandwich, bdmc
from pvae.evaluation.bound import elbo
from pvae.evaluation.codes import ClassAccuracy, Probe, class_accuracy, probe
from pvae.evaluation.collapse import LatentUse, latent_use
from pvae.evaluation.context import EvaluationContext
from pvae.evaluation.estimate import (
    AnnealedLogLikelihood,
    Bound,
    Estimate,
    LogLikelihood,
    UndefinedQuantityError,
)
from pvae.evaluation.importance import log_likelihood
from pvae.evaluation.imputation import Imputation, impute
from pvae.evaluation.kl_divergence import Divergence, kl_by_site
from pvae.evaluation.log_predictive import LogPredictive, log_predictive
from pvae.evaluation.reciprocal_importance import ChainLogLikelihood, marginal_by_hmc
from pvae.evaluation.simulation_based_calibration import Calibration, SiteCalibration, calibration

__all__ = [
    "ActiveUnits",
    "AmortizationGap",
    "AnnealedLogLikelihood",
    "Bound",
    "Calibration",
    "ChainLogLikelihood",
    "ClassAccuracy",
    "Divergence",
    "Estimate",
    "EvaluationContext",
    "Imputation",
    "Information",
    "LatentUse",
    "LogLikelihood",
    "LogPredictive",
    "Probe",
    "Sandwich",
    "SiteActivity",
    "SiteCalibration",
    "UndefinedQuantityError",
    "active_units",
    "ais",
    "amortization_gap",
    "bdmc",
    "calibration",
    "class_accuracy",
    "elbo",
    "impute",
    "information",
    "kl_by_site",
    "latent_use",
    "log_likelihood",
    "log_predictive",
    "marginal_by_hmc",
    "probe",
]
