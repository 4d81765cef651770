"""Generative models: p(x, z) as Pyro programs, one a file."""

if __name__ != "pvae.models":
    raise ImportError(
        f"this package was imported as {__name__!r}; it is part of pvae: install pvae, and "
        "write `from pvae.models import VAE`"
    )

from pvae.models.autoencoder import Autoencoder
from pvae.models.bayesian_vae import BayesianVAE
from pvae.models.cvae import CVAE
from pvae.models.dmm import DMM
from pvae.models.gmvae import GMVAE
from pvae.models.helmholtz import HelmholtzMachine
from pvae.models.ppca import PPCA
from pvae.models.ssvae import SSVAE
from pvae.models.tabular import Tabular
from pvae.models.vae import VAE

__all__ = [
    "CVAE",
    "DMM",
    "GMVAE",
    "PPCA",
    "SSVAE",
    "VAE",
    "Autoencoder",
    "BayesianVAE",
    "HelmholtzMachine",
    "Tabular",
]
