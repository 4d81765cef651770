"""The mean-field Gaussian recognition network that also reads a label."""

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pvae.nn import MLP, encoder, positive, with_class

__all__ = ["Conditional"]


class Conditional(nn.Module):
    """A Gaussian with independent dimensions, from a network that reads a datum and its label.

    q(z | x, y) = prod_d N(z_d; loc_d(x, y), scale_d(x, y)^2)

    Its site is "z", `(batch, z_dim)`, in the plate "data".

    References:
        Learning Structured Output Representation using Deep Conditional Generative Models (Sohn,
        Lee and Yan, 2015), https://papers.nips.cc/paper/5775.

    Args:
        x_shape: shape of one datum; images are `(height, width)` or `(channels, height, width)`.
        classes: number of labels.
        z_dim: number of latent variables, at least 1.
        hidden: width of the one hidden layer, or widths of each, in the order of the data's path.
        network: "mlp" or "conv", as of `MeanField`.

    Raises:
        ValueError: if sizes do not fit, or the network is unknown.

    Example:
        >>> import torch
        >>> guide = Conditional(x_shape=(8, 8), z_dim=2, hidden=16)
        >>> z = guide(torch.zeros(5, 8, 8), torch.tensor([3, 1, 1, 0, 1]))
    """

    def __init__(
        self,
        *,
        x_shape: Sequence[int] = (28, 28),
        classes: int = 10,
        z_dim: int = 20,
        hidden: int | Sequence[int] = 400,
        network: str = "mlp",
    ) -> None:
        super().__init__()
        self.classes = classes
        features = hidden if isinstance(hidden, int) else hidden[-1]
        self.features = encoder(network, x_shape, features, hidden=hidden)
        self.encoder = MLP(features + classes, features, 2 * z_dim)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Run the program q(z | x, y).

        Args:
            x: a batch of data, shape `(batch, *x_shape)`.
            y: labels 0, 1, ..., int64 `(batch,)`; None for data without, such as images whose
                parts are the condition.

        Returns:
            The value of site "z", shape `(batch, z_dim)`.
        """
        pyro.module("guide", self)
        with pyro.plate("data", len(x)):
            features = self.features(x)
            if y is None:
                code = features.new_zeros(self.classes).expand(len(x), -1)
                read = torch.cat([features, code], -1)
            else:
                read = with_class(features, y, self.classes)
            loc, raw = self.encoder(read).chunk(2, -1)
            z: Tensor = pyro.sample("z", dist.Normal(loc, positive(raw)).to_event(1))
        return z
