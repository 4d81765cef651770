"""The same pair as four kinds of callable, with BatchNorm, Dropout and a constrained scale.

p(x, z) = N(z; 0, I) N(x; decoder(z), scale^2), q(z | x) = N(z; encoder(x), 0.5^2)
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn

X, Z = 3, 2


def networks() -> tuple[nn.Module, nn.Module]:
    decoder = nn.Linear(Z, X)
    encoder = nn.Sequential(
        nn.Linear(X, 8, bias=False), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.1), nn.Linear(8, Z)
    )
    return decoder, encoder


def likelihood(loc: Tensor, scale: Tensor) -> dist.Distribution:
    return dist.Normal(loc, scale).to_event(1)


def functions():
    """Plain functions with `pyro.module` and `pyro.param`."""
    decoder, encoder = networks()

    def model(x):
        pyro.module("decoder", decoder)
        scale = pyro.param("scale", torch.ones(()), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(Z), 1.0).to_event(1))
            pyro.sample("x", likelihood(decoder(z), scale), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(encoder(x), 0.5).to_event(1))

    return model, guide


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = networks()[0]
        self.log_scale = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(Z), 1.0).to_event(1))
            pyro.sample("x", likelihood(self.net(z), self.log_scale.exp()), obs=x)


class Guide(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = networks()[1]

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.net(x), 0.5).to_event(1))


def modules():
    """`nn.Module`s whose forward is the program, without `pyro.module`."""
    return Model(), Guide()


class PyroModel(PyroModule):
    def __init__(self):
        super().__init__()
        self.net = networks()[0]
        self.scale = PyroParam(torch.ones(()), constraint=dist.constraints.positive)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(Z), 1.0).to_event(1))
            pyro.sample("x", likelihood(self.net(z), self.scale), obs=x)


class PyroGuide(PyroModule):
    def __init__(self):
        super().__init__()
        self.net = networks()[1]

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.net(x), 0.5).to_event(1))


def pyro_modules():
    """`PyroModule`s that both register their network as "net"."""
    return PyroModel(), PyroGuide()


class Both(nn.Module):
    def __init__(self):
        super().__init__()
        self.decoder, self.encoder = networks()
        self.log_scale = nn.Parameter(torch.zeros(()))

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(Z), 1.0).to_event(1))
            pyro.sample("x", likelihood(self.decoder(z), self.log_scale.exp()), obs=x)

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.encoder(x), 0.5).to_event(1))


def methods():
    """Bound methods of one module, as in Pyro's VAE example; one parameter is not registered."""
    both = Both()
    return both.model, both.guide


KINDS = {f.__name__: f for f in (functions, modules, pyro_modules, methods)}


def make(kind: str, seed: int):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return KINDS[kind]()


def toy_data(rows: int = 96) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(rows, Z, generator=generator)
    weight = torch.tensor([[1.0, 0.5, -0.5], [0.0, 1.0, 1.0]])
    return z @ weight + 0.3 * torch.randn(rows, X, generator=generator) + 1.0
