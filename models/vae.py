"""The variational autoencoder's generative model."""

from collections.abc import Sequence

import pyro
from torch import Tensor, nn

from pvae import likelihoods, priors
from pvae.nn import decoder

__all__ = ["VAE"]


class VAE(nn.Module):
    """One layer of Gaussian latent variables, decoded by a network.

    p(x, z) = p(z) p(x | decoder(z)), p(z) = N(z; 0, I) or another prior

    Its sites are "z", `(batch, z_dim)`, and "x", `(batch, *x_shape)`, in the plate "data".

    References:
        Auto-Encoding Variational Bayes (Kingma and Welling, 2013), https://arxiv.org/abs/1312.6114.
        Stochastic Backpropagation and Approximate Inference in Deep Generative Models (Rezende,
        Mohamed and Wierstra, 2014), https://arxiv.org/abs/1401.4082.

    Args:
        x_shape: shape of one datum; images are `(height, width)` or `(channels, height, width)`.
        z_dim: number of latent variables, at least 1.
        hidden: width of the one hidden layer, or widths of each, in the order of the data's path.
        likelihood: a name in `pvae.likelihoods.names`, a class, or an instance.
        prior: a name in `pvae.priors.names`, a class, or an instance.
        components: number of components of the priors that have several.
        network: "mlp", fully connected, or "conv", convolutional with those hidden layers before
            the convolutions.
        levels: grey levels of the data, used by the likelihoods over grey levels alone.

    Raises:
        ValueError: if sizes do not fit, or the likelihood, prior or network is unknown.

    Defaults:
        guide: mean_field
        data: digits

    Example:
        >>> import torch
        >>> x = VAE(x_shape=(8, 8), z_dim=2, hidden=16)(torch.zeros(5, 8, 8))
    """

    def __init__(
        self,
        *,
        x_shape: Sequence[int] = (28, 28),
        z_dim: int = 20,
        hidden: int | Sequence[int] = 400,
        likelihood: str | type[likelihoods.Likelihood] | likelihoods.Likelihood = "bernoulli",
        prior: str | type[priors.Prior] | priors.Prior = "standard",
        components: int = 10,
        network: str = "mlp",
        levels: int | None = None,
    ) -> None:
        super().__init__()
        self.likelihood = likelihoods.get(likelihood, x_shape, levels=levels)
        self.x_shape, self.z_dim = self.likelihood.x_shape, z_dim
        self.prior = priors.get(prior, z_dim, components=components, x_shape=x_shape, hidden=hidden)
        outputs = self.likelihood.outputs
        self.decoder = decoder(network, z_dim, x_shape, outputs=outputs, hidden=hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Run the program p(x, z) with x observed.

        Args:
            x: a batch of data, shape `(batch, *x_shape)`.

        Returns:
            The value of site "x": the data, or a draw where a handler hides them.

        Raises:
            ValueError: if x does not have the shape that the model was built for.
        """
        if tuple(x.shape[1:]) != self.x_shape:
            raise ValueError(
                f"VAE got x of shape {tuple(x.shape)}; expected (batch, *x_shape) with x_shape "
                f"{self.x_shape}: build it with x_shape={tuple(x.shape[1:])}"
            )
        pyro.module("model", self)
        prior = self.prior()
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior)
            value: Tensor = pyro.sample("x", self.likelihood(self.decoder(z)), obs=x)
        return value
