"""The conditional VAE: data given a label, or the rest of an image given a part of it."""

import math
from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pvae import likelihoods
from pvae.nn import MLP, decoder, positive

__all__ = ["CVAE", "quadrants_given"]


def quadrants_given(quadrants: int, x_shape: Sequence[int]) -> Tensor:
    """Which pixels of an image are given: bool of shape `(height, width)`.

    Args:
        quadrants: 1, the lower left; 2, the left half; 3, all but the upper right.
        x_shape: shape of an image, `(height, width)` or `(channels, height, width)`.

    Raises:
        ValueError: if the number of quadrants, or the shape, is another.

    Example:
        >>> quadrants_given(1, (4, 4)).int()[:, 0]
        tensor([0, 0, 1, 1], dtype=torch.int32)
    """
    if quadrants not in (1, 2, 3) or len(x_shape) not in (2, 3):
        raise ValueError(
            f"quadrants={quadrants} of data of shape {tuple(x_shape)}: give 1, 2 or 3, and images"
        )
    height, width = x_shape[-2:]
    given = torch.zeros(height, width, dtype=torch.bool)
    given[height // 2 :, : width // 2] = True
    given[: height // 2, : width // 2] = quadrants >= 2
    given[height // 2 :, width // 2 :] = quadrants == 3
    return given


class CVAE(nn.Module):
    """One layer of Gaussian latent variables, decoded together with a condition y.

    p(x, z | y) = N(z; loc(y), diag(scale(y))^2) p(x | decoder(z, y))

    y is a label, or some quadrants of the image x, whose other pixels are then generated. The sites
    are "z", `(batch, z_dim)`, and "x", `(batch, *x_shape)`, in the plate "data"; pixels that are
    given count in no bound.

    References:
        Learning Structured Output Representation using Deep Conditional Generative Models (Sohn,
        Lee and Yan, 2015), https://papers.nips.cc/paper/5775.

    Args:
        x_shape: shape of one datum; images are `(height, width)` or `(channels, height, width)`.
        classes: number of labels, at least 2.
        quadrants: None for labels; 1, 2 or 3 for that many quadrants: the lower left, then the
            upper left, then the lower right.
        z_dim: number of latent variables, at least 1.
        hidden: width of the one hidden layer, or widths of each, in the order of the data's path.
        likelihood: a name in `pvae.likelihoods.names`, a class, or an instance.
        levels: grey levels of the data, used by the likelihoods over grey levels alone.

    Raises:
        ValueError: if sizes do not fit, or the likelihood is unknown; in a call, if labels are
            needed and missing.

    Defaults:
        guide: conditional
        data: digits
        labels: all

    Example:
        >>> import torch
        >>> model = CVAE(x_shape=(8, 8), z_dim=2, hidden=16)
        >>> x = model(torch.zeros(5, 8, 8), torch.tensor([3, 1, 1, 0, 1]))
    """

    def __init__(
        self,
        *,
        x_shape: Sequence[int] = (28, 28),
        classes: int = 10,
        quadrants: int | None = None,
        z_dim: int = 20,
        hidden: int | Sequence[int] = 400,
        likelihood: str | type[likelihoods.Likelihood] | likelihoods.Likelihood = "bernoulli",
        levels: int | None = None,
    ) -> None:
        super().__init__()
        self.x_shape, self.classes = tuple(x_shape), classes
        self.likelihood = likelihoods.get(likelihood, x_shape, levels=levels)
        given = torch.zeros(()) if quadrants is None else quadrants_given(quadrants, x_shape)
        self.given: Tensor
        self.register_buffer("given", given, persistent=False)
        self.by_label = quadrants is None
        size = classes if self.by_label else math.prod(self.x_shape)
        self.prior = MLP(size, hidden, 2 * z_dim)
        outputs = self.likelihood.outputs
        self.decoder = decoder("mlp", z_dim + size, x_shape, outputs=outputs, hidden=hidden)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Run the program p(x, z | y) with x observed.

        Args:
            x: a batch of data, shape `(batch, *x_shape)`.
            y: labels 0, 1, ..., int64 `(batch,)`; of no use where quadrants are given.

        Returns:
            The value of site "x": the data, or a draw where a handler hides them.
        """
        pyro.module("model", self)
        condition = self._condition(x, y)
        with pyro.plate("data", len(x)):
            loc, raw = self.prior(condition).chunk(2, -1)
            z = pyro.sample("z", dist.Normal(loc, positive(raw)).to_event(1))
            given = condition.expand(*z.shape[:-1], -1)
            fn = self.likelihood(self.decoder(torch.cat([z, given], -1)))
            if not self.by_label:
                fn = fn.base_dist.mask(~self.given).to_event(len(self.x_shape))
            value: Tensor = pyro.sample("x", fn, obs=x)
        return value

    def _condition(self, x: Tensor, y: Tensor | None) -> Tensor:
        if not self.by_label:
            return (x * self.given).flatten(1)
        if y is None:
            raise ValueError("CVAE needs labels: call it with (x, y), with data of labels=True")
        return torch.eye(self.classes, dtype=x.dtype, device=x.device)[y]
