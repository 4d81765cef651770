"""Training: `fit`, its loop, its state and its run folder."""

from pvae.training.divergence import DivergedError
from pvae.training.fitting import fit
from pvae.training.loading import load
from pvae.training.result import Fit

__all__ = ["DivergedError", "Fit", "fit", "load"]
