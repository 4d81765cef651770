"""Variational inference without a recognition network: parameters of each datum's own."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn

from pvae.nn import positive

__all__ = ["PerDatum"]


class PerDatum(nn.Module):
    """A mean-field Gaussian for each datum, with parameters of its own.

    q(z) = prod_n prod_d N(z_nd; loc_nd, scale_nd^2)

    Its site is "z", `(batch, z_dim)`, in the plate "data". It receives the rows' numbers in the
    training data as `index`; rows without a number are new, and their parameters are fitted on the
    spot, with the model as it is.

    References:
        Stochastic Variational Inference (Hoffman, Blei, Wang and Paisley, 2013),
        https://arxiv.org/abs/1206.7051, for local parameters; here they are trained together with
        the model, by gradients.

    Args:
        model: p(x, z), called with one batch.
        rows: number of training data, at least 1.
        z_dim: number of latent variables, at least 1.
        num_steps: gradient steps in which new rows are fitted.
        learning_rate: of Adam in these steps.

    Raises:
        ValueError: if a size is below 1.

    Example:
        >>> from pvae.models import VAE
        >>> model = VAE(x_shape=(8, 8), z_dim=2, hidden=16)
        >>> guide = PerDatum(model, rows=100, z_dim=2)
        >>> z = guide(torch.zeros(5, 8, 8), index=torch.tensor([3, 99, 0, 1, 2]))
    """

    def __init__(
        self,
        model: Callable[..., object],
        *,
        rows: int,
        z_dim: int = 20,
        num_steps: int = 200,
        learning_rate: float = 0.1,
    ) -> None:
        super().__init__()
        if min(rows, z_dim, num_steps) < 1:
            raise ValueError(
                f"PerDatum got rows={rows}, z_dim={z_dim} and num_steps={num_steps}: expected "
                "numbers of at least 1"
            )
        self.num_steps, self.learning_rate = num_steps, learning_rate
        self.loc = nn.Parameter(torch.zeros(rows, z_dim))
        self.raw = nn.Parameter(torch.zeros(rows, z_dim))
        self._model: tuple[Any] = (model,)

    def forward(self, x: Tensor, *more: Tensor, index: Tensor | None = None) -> Tensor:
        """Run the program q(z).

        Args:
            x: a batch of data, shape `(batch, ...)`.
            *more: further arguments of the model, such as labels.
            index: their numbers among the training data, int64 `(batch,)`; None for new data.

        Returns:
            The value of site "z", shape `(batch, z_dim)`.
        """
        pyro.module("guide", self)
        if index is None:
            loc, raw = self._fitted(x, *more)
        else:
            loc, raw = self.loc[index], self.raw[index]
        with pyro.plate("data", len(x)):
            z: Tensor = pyro.sample("z", dist.Normal(loc, positive(raw)).to_event(1))
        return z

    def _fitted(self, x: Tensor, *more: Tensor) -> tuple[Tensor, Tensor]:
        """loc and raw scale of new rows, by stochastic gradients of the bound of each."""
        (model,) = self._model
        x = x.detach()
        loc = self.loc.new_zeros(len(x), self.loc.shape[1], requires_grad=True)
        raw = torch.zeros_like(loc, requires_grad=True)
        adam = torch.optim.Adam([loc, raw], lr=self.learning_rate)
        halved = torch.optim.lr_scheduler.CosineAnnealingLR(adam, self.num_steps)
        with torch.enable_grad(), poutine.block():
            for _ in range(self.num_steps):
                q = dist.Normal(loc, positive(raw)).to_event(1)
                z = q.rsample()
                trace = poutine.trace(poutine.condition(model, {"z": z})).get_trace(x, *more)
                bound = trace.log_prob_sum() - q.log_prob(z).sum()
                loc.grad, raw.grad = torch.autograd.grad(-bound, [loc, raw])
                adam.step()
                halved.step()
        return loc.detach(), raw.detach()
