"""The recurrent recognition network of a deep Markov model."""

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from pyro.contrib.zuko import ZukoToPyro
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pvae.likelihoods import MarkovChain
from pvae.nn import BackwardRNN, positive, within
from pvae.nn.flows import zuko

__all__ = ["Combiner"]


class Combiner(nn.Module):
    """A Markov chain whose steps combine the state before with a network's reading of the rest.

    q(z | x) = prod_t q(z_t | z_{t-1}, x_t, ..., x_T)

    Each factor is Gaussian, with loc and scale from (tanh(W z_{t-1} + b) + h_t) / 2, where h_t is
    the state of a recurrent network that reads x backwards; coupling flows may follow. Its site is
    "z", `(batch, steps, z_dim)`, in the plate "data".

    References:
        Structured Inference Networks for Nonlinear State Space Models (R. G. Krishnan, U. Shalit
        and D. Sontag, 2017), https://arxiv.org/abs/1609.09869; there "ST-R".

    Args:
        x_shape: shape of one datum, `(steps, features)`.
        z_dim: number of latent variables of each step, at least 1.
        rnn: size of the recurrent network's state.
        transforms: number of coupling layers after the Gaussian of each step.
        dropout: probability with which parts of the recurrent network's states are dropped in
            training.

    Raises:
        ValueError: if sizes do not fit.

    Example:
        >>> import torch
        >>> guide = Combiner(x_shape=(6, 3), z_dim=2, rnn=16)
        >>> z = guide(torch.zeros(5, 6, 3), torch.tensor([6, 2, 1, 6, 4]))
    """

    def __init__(
        self,
        *,
        x_shape: Sequence[int] = (160, 88),
        z_dim: int = 64,
        rnn: int = 200,
        transforms: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if len(x_shape) != 2:
            raise ValueError(
                f"Combiner got x_shape={tuple(x_shape)}: expected (steps, features), sequences"
            )
        self.first = nn.Parameter(torch.zeros(z_dim))
        self.rnn = BackwardRNN(x_shape[1], rnn)
        self.dropout = nn.Dropout(dropout)
        self.state = nn.Linear(z_dim, rnn)
        self.out = nn.Linear(rnn, 2 * z_dim)
        self.transforms = nn.ModuleList()
        if transforms:
            flow = zuko.flows.MAF(
                z_dim, rnn, transforms=transforms, hidden_features=(z_dim,), passes=2
            )
            self.transforms.extend(
                zuko.lazy.LazyInverse(part) for part in flow.transform.transforms
            )

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Run the program q(z | x).

        Args:
            x: a batch of sequences, shape `(batch, steps, features)`.
            lengths: steps of each that count, int64 `(batch,)`; None for all.

        Returns:
            The value of site "z", shape `(batch, steps, z_dim)`.
        """
        pyro.module("guide", self)
        kept = None if lengths is None else within(lengths, x.shape[1])
        with pyro.plate("data", len(x)):
            read = self.dropout(self.rnn(x, lengths))
            steps = x.shape[1]
            chain = MarkovChain(self._step, self.first, steps=steps, inputs=read, mask=kept)
            z: Tensor = pyro.sample("z", chain)
        return z

    def _step(self, before: Tensor, read: Tensor | None) -> TorchDistribution:
        combined = (self.state(before).tanh() + read) / 2
        loc, raw = self.out(combined).chunk(2, -1)
        scale = positive(raw, floor=1e-3)
        if not self.transforms:
            gaussian: TorchDistribution = dist.Normal(loc, scale).to_event(1)
            return gaussian
        steps = [part(combined) for part in self.transforms]
        base = zuko.distributions.DiagNormal(loc, scale)
        composed = zuko.transforms.ComposedTransform(*steps)
        return ZukoToPyro(zuko.distributions.NormalizingFlow(composed, base))
