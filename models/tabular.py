"""A model of tables with mixed columns, with the two-level prior of HI-VAE as an option."""

from collections.abc import Mapping, Sequence

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pvae import likelihoods
from pvae.nn import decoder, with_class

__all__ = ["Tabular"]


class Tabular(nn.Module):
    """Gaussian latent variables, decoded to a table's columns, each with its own likelihood.

    p(x, z) = N(z; 0, I) prod_d p(x_d | decoder_d(z)), or with components, as in HI-VAE,
    p(x, y, z) = p(y) N(z; loc_y, I) prod_d p(x_d | decoder_d(z, y)), p(y) uniform

    Its sites are "y", `(batch,)`, with more than one component, "z", `(batch, z_dim)`, and "x",
    `(batch, columns)`, in the plate "data".

    References:
        Handling Incomplete Heterogeneous Data using VAEs (Nazabal, Olmos, Ghahramani and Valera,
        2018), https://arxiv.org/abs/1807.03653. There numbers are normalized in each batch, here in
        the units of the whole table.

    Args:
        x_shape: `(columns,)`.
        columns: the columns, as of `likelihoods.Mixed`.
        z_dim: number of latent variables, at least 1.
        hidden: width of the one hidden layer, or widths of each, in the order of the data's path.
        components: number of components of the prior, at least 1.

    Raises:
        ValueError: if columns do not fit, or a size is below 1.

    Defaults:
        guide: tabular
        data: wine
        missing: nan

    Example:
        >>> import torch
        >>> model = Tabular(x_shape=(2,), columns=["real", "count"], z_dim=2, hidden=16)
        >>> x = model(torch.zeros(5, 2))
    """

    def __init__(
        self,
        *,
        x_shape: Sequence[int],
        columns: Sequence[str | Mapping[str, object]],
        z_dim: int = 20,
        hidden: int | Sequence[int] = 100,
        components: int = 1,
    ) -> None:
        super().__init__()
        if components < 1:
            raise ValueError(f"Tabular got components={components}: expected at least 1")
        self.likelihood = likelihoods.get("mixed", x_shape, columns=columns)
        self.components = components
        self.locs = nn.Parameter(torch.randn(components, z_dim)) if components > 1 else None
        outputs = self.likelihood.outputs
        size = z_dim + (components if components > 1 else 0)
        self.decoder = decoder("mlp", size, x_shape, outputs=outputs, hidden=hidden)
        self.zeros: Tensor
        self.register_buffer("zeros", torch.zeros(z_dim), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Run the program p(x, z) with x observed.

        Args:
            x: a batch of rows, shape `(batch, columns)`.

        Returns:
            The value of site "x": the data, or a draw where a handler hides them.
        """
        pyro.module("model", self)
        with pyro.plate("data", len(x)):
            loc = self.zeros
            if self.locs is not None:
                label = pyro.sample("y", dist.Categorical(logits=x.new_zeros(self.components)))
                loc = self.locs[label]
            z = pyro.sample("z", dist.Normal(loc, torch.ones_like(loc)).to_event(1))
            read = with_class(z, label, self.components) if self.locs is not None else z
            value: Tensor = pyro.sample("x", self.likelihood(self.decoder(read)), obs=x)
        return value
