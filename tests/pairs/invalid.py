"""Common mistakes in model/guide pairs, each with the line that a check must name.

Each function returns a model, a guide and a batch, and an objective if it matters. `# here` marks
the line that the finding must name.
"""

import pyro
import pyro.distributions as dist
import torch
from torch import nn
from torch.nn.functional import softplus

WRONG = []
ROWS, X, Z = 12, 6, 2


def wrong(severity, message):
    """Register a pair with its expected finding."""

    def register(make):
        WRONG.append((make, severity, message))
        return make

    return register


def data(*shape, seed=0):
    return torch.randn(shape or (ROWS, X), generator=torch.Generator().manual_seed(seed))


def bits():
    return (data() > 0).float()


def normal(size, *, rows=None):
    """A standard normal prior with this many dimensions."""
    shape = (size,) if rows is None else (rows, size)
    return dist.Normal(torch.zeros(shape), 1.0).to_event(1)


class Pair(nn.Module):
    """A correct pair; each wrong pair changes one part of it."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(X, 8), nn.Tanh(), nn.Linear(8, 2 * Z))
        self.decoder = nn.Sequential(nn.Linear(Z, 8), nn.Tanh(), nn.Linear(8, X))

    def posterior(self, x):
        loc, raw = self.encoder(x).chunk(2, -1)
        return dist.Normal(loc, softplus(raw) + 1e-3).to_event(1)

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(Z))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.posterior(x))
