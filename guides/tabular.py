"""The recognition network of tables with mixed columns and holes."""

from collections.abc import Mapping, Sequence

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from pvae.nn import MLP, HiddenLayers, TableFeatures, positive, with_class

__all__ = ["Tabular"]


class Tabular(nn.Module):
    """A Gaussian code, and with components its component, from the cells that are seen.

    q(z | x) = N(z; loc(x), diag(scale(x))^2), or q(y | x) N(z; loc(x, y), diag(scale(x, y))^2)

    Its sites are "y", `(batch,)`, with more than one component, marked for enumeration, and "z",
    `(batch, z_dim)`, in the plate "data".

    References:
        Handling Incomplete Heterogeneous Data using VAEs (Nazabal, Olmos, Ghahramani and Valera,
        2018), https://arxiv.org/abs/1807.03653. There q(y | x) is a relaxed distribution; here the
        components are summed over.

    Args:
        columns: the columns, as of `likelihoods.Mixed`.
        z_dim: number of latent variables, at least 1.
        hidden: width of the one hidden layer, or widths of each, in the order of the data's path.
        components: number of components of the model's prior, at least 1.

    Raises:
        ValueError: if a size is below 1.

    Example:
        >>> import torch
        >>> guide = Tabular(columns=["real", "count"], z_dim=2, hidden=16)
        >>> z = guide(torch.zeros(5, 2), torch.zeros(5, 2, dtype=torch.bool))
    """

    def __init__(
        self,
        *,
        columns: Sequence[str | Mapping[str, object]],
        z_dim: int = 20,
        hidden: int | Sequence[int] = 100,
        components: int = 1,
    ) -> None:
        super().__init__()
        if components < 1 or z_dim < 1:
            raise ValueError(
                f"Tabular got components={components} and z_dim={z_dim}: expected at least 1"
            )
        self.components = components
        self.table = TableFeatures(columns)
        self.features = HiddenLayers(self.table.out_features, hidden)
        size = self.features.out_features
        self.classifier = nn.Linear(size, components) if components > 1 else None
        self.encoder = MLP(size + (components if components > 1 else 0), size, 2 * z_dim)

    def forward(self, x: Tensor, missing: Tensor | None = None) -> Tensor:
        """Run the program q(z | x).

        Args:
            x: a batch of rows, shape `(batch, columns)`; of any value where it is missing.
            missing: bool of the same shape, True where a value is missing; None for nowhere.

        Returns:
            The value of site "z", shape `(batch, z_dim)`.
        """
        pyro.module("guide", self)
        with pyro.plate("data", len(x)):
            code = self.features(self.table(x, missing))
            if self.classifier is not None:
                fn = dist.Categorical(logits=self.classifier(code))
                label = pyro.sample("y", fn, infer={"enumerate": "parallel"})
                code = with_class(code, label, self.components)
            loc, raw = self.encoder(code).chunk(2, -1)
            z: Tensor = pyro.sample("z", dist.Normal(loc, positive(raw)).to_event(1))
        return z
