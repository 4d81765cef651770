"""The Gaussian-mixture VAE: clusters in latent space, found without labels."""

import math
from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pvae import likelihoods
from pvae.nn import decoder, positive

__all__ = ["GMVAE"]


class GMVAE(nn.Module):
    """A class, a Gaussian code around the place of the class, and a decoder.

    p(x, y, z) = p(y) N(z; loc_y, diag(scale_y)^2) p(x | decoder(z))

    Its sites are "y", `(batch,)`, "z", `(batch, z_dim)`, and "x", `(batch, *x_shape)`, in the plate
    "data". The guides `Clusters` and `Classifier` assign data to classes. Without a start the
    classes tend to stay mixed, as all data are assigned to all of them evenly: train a `VAE` first,
    take its networks, and let the classes `start_at` its codes, or at clusters of them that another
    method found.

    References:
        Variational Deep Embedding: An Unsupervised and Generative Approach to Clustering (Jiang,
        Zheng, Tan, Tang and Zhou, 2017), https://arxiv.org/abs/1611.05148.
        Deep Unsupervised Clustering with Gaussian Mixture Variational Autoencoders (Dilokthanakul
        et al., 2016), https://arxiv.org/abs/1611.02648; there a noise variable shapes the classes,
        which are Gaussian here.

    Args:
        x_shape: shape of one datum; images are `(height, width)` or `(channels, height, width)`.
        classes: number of classes, at least 2.
        z_dim: number of continuous latent variables, at least 1.
        hidden: width of the one hidden layer, or widths of each, in the order of the data's path.
        likelihood: a name in `pvae.likelihoods.names`, a class, or an instance.
        even: whether all classes keep the same probability; otherwise it is learned.
        spread: standard deviation of the places of the classes at the start.
        network: "mlp" or "conv", as of `VAE`.
        levels: grey levels of the data, used by the likelihoods over grey levels alone.

    Raises:
        ValueError: if sizes do not fit, or the likelihood or network is unknown.

    Defaults:
        guide: clusters
        data: digits

    Example:
        >>> x = GMVAE(x_shape=(8, 8), z_dim=2, hidden=16)(torch.zeros(5, 8, 8))
    """

    def __init__(
        self,
        *,
        x_shape: Sequence[int] = (28, 28),
        classes: int = 10,
        z_dim: int = 20,
        hidden: int | Sequence[int] = 500,
        likelihood: str | type[likelihoods.Likelihood] | likelihoods.Likelihood = "bernoulli",
        even: bool = True,
        spread: float = 2.0,
        network: str = "mlp",
        levels: int | None = None,
    ) -> None:
        super().__init__()
        if classes < 2:
            raise ValueError(f"GMVAE got classes={classes}: expected at least 2")
        self.classes = classes
        self.likelihood = likelihoods.get(likelihood, x_shape, levels=levels)
        outputs = self.likelihood.outputs
        self.decoder = decoder(network, z_dim, x_shape, outputs=outputs, hidden=hidden)
        self.locs = nn.Parameter(spread * torch.randn(classes, z_dim))
        self.raw = nn.Parameter(torch.zeros(classes, z_dim))
        self.zeros: Tensor
        self.register_buffer("zeros", torch.zeros(classes), persistent=False)
        self.logits = None if even else nn.Parameter(torch.zeros(classes))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Run the program p(x, y, z) with x observed.

        Args:
            x: a batch of data, shape `(batch, *x_shape)`.
            y: labels, for guides that know some, shape `(batch,)`; not used by the model.

        Returns:
            The value of site "x": the data, or a draw where a handler hides them.
        """
        pyro.module("model", self)
        with pyro.plate("data", len(x)):
            label = pyro.sample("y", self.mixture()[0])
            place = dist.Normal(self.locs[label], positive(self.raw)[label]).to_event(1)
            z = pyro.sample("z", place)
            value: Tensor = pyro.sample("x", self.likelihood(self.decoder(z)), obs=x)
        return value

    def mixture(self) -> tuple[dist.Categorical, TorchDistribution]:
        """p(y), of no batch shape, and p(z | y) for every class, of batch shape `(classes,)`."""
        logits = self.zeros if self.logits is None else self.logits
        codes: TorchDistribution = dist.Normal(self.locs, positive(self.raw)).to_event(1)
        return dist.Categorical(logits=logits), codes

    def start_at(self, codes: Tensor, clusters: Tensor | None = None, *, seed: int = 0) -> None:
        """Set the classes to clusters of codes.

        Args:
            codes: shape `(rows, z_dim)`.
            clusters: the class of each code, int64 `(rows,)`, found by any method; by default a
                mixture of Gaussians is fitted to the codes, with scikit-learn.
            seed: of the ten starts of that fit, of which the likeliest result is taken.

        Raises:
            ValueError: if a class has fewer than two codes, or a cluster is no class.
        """
        codes = codes.detach().double().cpu()
        if clusters is None:
            from sklearn.mixture import GaussianMixture

            fitted = GaussianMixture(
                self.classes, covariance_type="diag", n_init=10, random_state=seed
            ).fit(codes.numpy())
            found = (fitted.means_, fitted.covariances_, fitted.weights_)
            locs, variances, weights = (torch.as_tensor(part) for part in found)
        else:
            counts = torch.bincount(clusters.cpu(), minlength=self.classes)
            if len(counts) > self.classes or counts.min() < 2:
                raise ValueError(
                    f"start_at got clusters of {counts.tolist()} codes: expected {self.classes} "
                    "classes with at least two codes each"
                )
            parts = [codes[clusters.cpu() == label] for label in range(self.classes)]
            locs = torch.stack([part.mean(0) for part in parts])
            variances = torch.stack([part.var(0) for part in parts])
            weights = counts / counts.sum()
        scale = variances.sqrt().clamp(min=1e-3) - 1e-5
        with torch.no_grad():
            self.locs.copy_(locs)
            self.raw.copy_(torch.expm1(scale).log() - math.log(math.expm1(1 - 1e-5)))
            if self.logits is not None:
                self.logits.copy_(weights.log())
