"""Networks over sequences: a gated transition, and a recurrent network that reads backwards."""

import torch
from torch import Tensor, nn

from pvae.nn.fully_connected import MLP
from pvae.nn.scales import positive

__all__ = ["BackwardRNN", "GatedTransition", "within"]


def within(lengths: Tensor, steps: int) -> Tensor:
    """Which steps of sequences are before their end, bool `(batch, steps)`.

    Args:
        lengths: steps of each sequence, int64 `(batch,)`.
        steps: number of steps of the longest.

    Example:
        >>> within(torch.tensor([2, 1]), 3)
        tensor([[ True,  True, False],
                [ True, False, False]])
    """
    return torch.arange(steps, device=lengths.device) < lengths[:, None]


class GatedTransition(nn.Module):
    """From a state to loc and scale of the next: between a linear and a nonlinear map.

    loc(z) = (1 - gate(z)) * A z + gate(z) * h(z), with A = I at the start.

    References:
        Structured Inference Networks for Nonlinear State Space Models (R. G. Krishnan, U. Shalit
        and D. Sontag, 2017; section 5), https://arxiv.org/abs/1609.09869.

    Args:
        z_dim: size of the state, at least 1.
        hidden: width of the hidden layers of gate and h.

    Example:
        >>> loc, scale = GatedTransition(2, hidden=16)(torch.zeros(5, 2))
        >>> loc.shape, scale.shape
        (torch.Size([5, 2]), torch.Size([5, 2]))
    """

    def __init__(self, z_dim: int, hidden: int) -> None:
        super().__init__()
        self.gate = MLP(z_dim, hidden, z_dim, activation="relu")
        self.proposed = MLP(z_dim, hidden, z_dim, activation="relu")
        self.linear = nn.Linear(z_dim, z_dim)
        self.raw = nn.Linear(z_dim, z_dim)
        with torch.no_grad():
            self.linear.weight.copy_(torch.eye(z_dim))
            self.linear.bias.zero_()

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Map `(*batch, z_dim)` to loc and scale of the same shape."""
        gate, proposed = self.gate(z).sigmoid(), self.proposed(z)
        loc = (1 - gate) * self.linear(z) + gate * proposed
        return loc, positive(self.raw(proposed.relu()), floor=1e-3)


class BackwardRNN(nn.Module):
    """A gated recurrent network that reads each sequence from its end to its start.

    Args:
        features: size of a step, at least 1.
        hidden: size of its state, at least 1.

    Example:
        >>> network = BackwardRNN(3, 16)
        >>> network(torch.zeros(5, 6, 3), torch.tensor([6, 2, 1, 6, 4])).shape
        torch.Size([5, 6, 16])
    """

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.network = nn.GRU(features, hidden, batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The state at each step, after all later ones.

        Args:
            x: shape `(batch, steps, features)`.
            lengths: steps of each sequence, int64 `(batch,)`; None for all.

        Returns:
            Shape `(batch, steps, hidden)`; of no meaning after a sequence's end.
        """
        steps = torch.arange(x.shape[1], device=x.device)
        last = (x.shape[1] if lengths is None else lengths[:, None]) - 1
        # Its own inverse: steps before the end are reversed, the others stay in place.
        index = torch.where(steps <= last, last - steps, steps).expand(len(x), -1)
        rows = torch.arange(len(x), device=x.device)[:, None]
        states: Tensor = self.network(x[rows, index])[0]
        return states[rows, index]
