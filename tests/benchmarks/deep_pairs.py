"""Deep pairs for timing: a hierarchy of five Gaussian layers, and a Markov model of 20 steps."""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus


class Gaussian(nn.Module):
    """A hidden layer with two output layers, for loc and scale."""

    def __init__(self, size: int, hidden: int, out: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(size, hidden), nn.SiLU(), nn.Linear(hidden, 2 * out))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        loc, raw = self.net(x).chunk(2, -1)
        return loc, softplus(raw) + 1e-3


class Hierarchy(nn.Module):
    """z5 -> ... -> z1 -> x with 4 to 64 dimensions, 128 hidden units per layer, bottom-up guide."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = (784, 64, 32, 16, 8, 4)
        pairs = list(zip(self.sizes, self.sizes[1:], strict=False))
        self.up = nn.ModuleList(Gaussian(below, 128, above) for below, above in pairs)
        self.down = nn.ModuleList(Gaussian(above, 128, below) for below, above in pairs[1:])
        self.emit = nn.Sequential(nn.Linear(64, 128), nn.SiLU(), nn.Linear(128, 784))

    def model(self, x: Tensor) -> None:
        pyro.module("down", self.down)
        pyro.module("emit", self.emit)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z5", dist.Normal(x.new_zeros(4), 1.0).to_event(1))
            for number in range(4, 0, -1):
                z = pyro.sample(f"z{number}", dist.Normal(*self.down[number - 1](z)).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.emit(z)).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("up", self.up)
        with pyro.plate("data", len(x)):
            for number, layer in enumerate(self.up, start=1):
                x = pyro.sample(f"z{number}", dist.Normal(*layer(x)).to_event(1))


class Markov(nn.Module):
    """p(z_t | z_{t-1}) p(x_t | z_t) over 20 steps of 88 notes, with a recurrent guide."""

    steps = 20

    def __init__(self) -> None:
        super().__init__()
        self.transition, self.emit = Gaussian(8, 32, 8), nn.Linear(8, 88)
        self.backward_rnn, self.combine = nn.GRU(88, 16, batch_first=True), Gaussian(24, 32, 8)

    def model(self, x: Tensor) -> None:
        pyro.module("transition", self.transition)
        pyro.module("emit", self.emit)
        with pyro.plate("data", len(x)):
            z = x.new_zeros(len(x), 8)
            for t in range(self.steps):
                z = pyro.sample(f"z_{t}", dist.Normal(*self.transition(z)).to_event(1))
                x_t = dist.Bernoulli(logits=self.emit(z)).to_event(1)
                pyro.sample(f"x_{t}", x_t, obs=x[:, t])

    def guide(self, x: Tensor) -> None:
        pyro.module("backward_rnn", self.backward_rnn)
        pyro.module("combine", self.combine)
        future = self.backward_rnn(x.flip(1))[0].flip(1)
        with pyro.plate("data", len(x)):
            z = x.new_zeros(len(x), 8)
            for t in range(self.steps):
                z = torch.cat([z, future[:, t]], -1)
                z = pyro.sample(f"z_{t}", dist.Normal(*self.combine(z)).to_event(1))


def deep_pairs() -> dict[str, tuple[nn.Module, Tensor]]:
    """Model, guide and batch by name."""
    return {
        "5-layer hierarchy, batch 128": (Hierarchy(), torch.rand(128, 784).bernoulli()),
        "20-step Markov model, batch 32": (Markov(), torch.rand(32, 20, 88).bernoulli()),
    }
