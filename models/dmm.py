"""The deep Markov model: a nonlinear state-space model of sequences."""

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pvae import likelihoods
from pvae.likelihoods import MarkovChain
from pvae.nn import MLP, GatedTransition, within

__all__ = ["DMM"]


class DMM(nn.Module):
    """A Markov chain of latent states, each decoded to one step of a sequence.

    p(x, z) = prod_t N(z_t; loc(z_{t-1}), scale(z_{t-1})^2) p(x_t | z_t), with z_0 learned

    Its sites are "z", `(batch, steps, z_dim)`, and "x", `(batch, steps, features)`, in the plate
    "data". Steps after a sequence's length count in neither.

    References:
        Structured Inference Networks for Nonlinear State Space Models (R. G. Krishnan, U. Shalit
        and D. Sontag, 2017), https://arxiv.org/abs/1609.09869.

    Args:
        x_shape: shape of one datum, `(steps, features)`.
        z_dim: number of latent variables of each step, at least 1.
        hidden: width of the hidden layers of the emission, or widths of each.
        transition: width of the hidden layers of the gated transition.
        likelihood: a name in `pvae.likelihoods.names`, a class, or an instance, of one step.
        levels: grey levels of the data, used by the likelihoods over grey levels alone.

    Raises:
        ValueError: if sizes do not fit, or the likelihood is unknown.

    Defaults:
        guide: combiner
        data: jsb-chorales

    Example:
        >>> import torch
        >>> model = DMM(x_shape=(6, 3), z_dim=2, hidden=16)
        >>> x = model(torch.zeros(5, 6, 3), torch.tensor([6, 2, 1, 6, 4]))
    """

    def __init__(
        self,
        *,
        x_shape: Sequence[int] = (160, 88),
        z_dim: int = 64,
        hidden: int | Sequence[int] = (100, 100),
        transition: int = 200,
        likelihood: str | type[likelihoods.Likelihood] | likelihoods.Likelihood = "bernoulli",
        levels: int | None = None,
    ) -> None:
        super().__init__()
        if len(x_shape) != 2:
            raise ValueError(
                f"DMM got x_shape={tuple(x_shape)}: expected (steps, features), sequences"
            )
        _, features = x_shape
        self.likelihood = likelihoods.get(likelihood, (features,), levels=levels)
        self.first = nn.Parameter(torch.zeros(z_dim))
        self.transition = GatedTransition(z_dim, transition)
        self.emission = MLP(z_dim, hidden, self.likelihood.outputs * features, activation="relu")

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Run the program p(x, z) with x observed.

        Args:
            x: a batch of sequences, shape `(batch, steps, features)`.
            lengths: steps of each that count, int64 `(batch,)`; None for all.

        Returns:
            The value of site "x": the data, or a draw where a handler hides them.
        """
        pyro.module("model", self)
        kept = None if lengths is None else within(lengths, x.shape[1])
        with pyro.plate("data", len(x)):
            chain = MarkovChain(self._next, self.first, steps=x.shape[1], mask=kept)
            z = pyro.sample("z", chain)
            output = self.emission(z).unflatten(-1, (self.likelihood.outputs, -1))
            fn: TorchDistribution = self.likelihood(output)
            if kept is not None:
                fn = fn.mask(kept)
            value: Tensor = pyro.sample("x", fn.to_event(1), obs=x)
        return value

    def _next(self, before: Tensor, _: Tensor | None) -> TorchDistribution:
        loc, scale = self.transition(before)
        gaussian: TorchDistribution = dist.Normal(loc, scale).to_event(1)
        return gaussian
