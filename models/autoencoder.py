"""The autoencoder: a model without a prior term, for guides that are points."""

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from pvae import likelihoods
from pvae.nn import decoder

__all__ = ["Autoencoder"]


class Autoencoder(nn.Module):
    """A code without a prior term, and a decoder.

    p(x | z) = p(x | decoder(z)); log p(z) is masked, so that it counts 0

    Its sites are "z", `(batch, z_dim)`, and "x", `(batch, *x_shape)`, in the plate "data". With the
    guide `Point` the objective is log p(x | encoder(x)): plain, denoising or contractive. There is
    no p(z) to sample from, and no evidence; a Markov chain that corrupts, encodes and decodes in
    turn samples from what a denoising autoencoder has learned.

    References:
        Extracting and Composing Robust Features with Denoising Autoencoders (Vincent, Larochelle,
        Bengio and Manzagol, 2008), https://doi.org/10.1145/1390156.1390294.
        Generalized Denoising Auto-Encoders as Generative Models (Bengio, Yao, Alain and Vincent,
        2013), https://arxiv.org/abs/1305.6663, for the Markov chain.

    Args:
        x_shape: shape of one datum; images are `(height, width)` or `(channels, height, width)`.
        z_dim: size of the code, at least 1.
        hidden: width of the one hidden layer, or widths of each, in the order of the data's path.
        likelihood: a name in `pvae.likelihoods.names`, a class, or an instance.
        network: "mlp" or "conv", as of `VAE`.
        levels: grey levels of the data, used by the likelihoods over grey levels alone.

    Raises:
        ValueError: if sizes do not fit, or the likelihood or network is unknown.

    Defaults:
        guide: point
        data: digits

    Example:
        >>> import pvae, torch
        >>> model = Autoencoder(x_shape=(8, 8), z_dim=2, hidden=16)
        >>> guide = pvae.guides.Point(x_shape=(8, 8), z_dim=2, hidden=16, noise=0.5)
        >>> x = torch.zeros(5, 8, 8)
        >>> for _ in range(10):  # the Markov chain
        ...     x = pvae.predict(model, guide, x + 0.5 * torch.randn_like(x))["x"][0]
    """

    def __init__(
        self,
        *,
        x_shape: Sequence[int] = (28, 28),
        z_dim: int = 20,
        hidden: int | Sequence[int] = 400,
        likelihood: str | type[likelihoods.Likelihood] | likelihoods.Likelihood = "bernoulli",
        network: str = "mlp",
        levels: int | None = None,
    ) -> None:
        super().__init__()
        if z_dim < 1:
            raise ValueError(f"Autoencoder got z_dim={z_dim}: expected sizes of at least 1")
        self.z_dim = z_dim
        self.likelihood = likelihoods.get(likelihood, x_shape, levels=levels)
        outputs = self.likelihood.outputs
        self.decoder = decoder(network, z_dim, x_shape, outputs=outputs, hidden=hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Run the program p(x | z) with x observed.

        Args:
            x: a batch of data, shape `(batch, *x_shape)`.

        Returns:
            The value of site "x": the data, or a draw where a handler hides them.
        """
        pyro.module("model", self)
        zeros = x.new_zeros(self.z_dim)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(zeros, zeros + 1).to_event(1).mask(False))
            value: Tensor = pyro.sample("x", self.likelihood(self.decoder(z)), obs=x)
        return value
