"""Small pairs whose expectations under the guide are finite sums.

Discrete latents are enumerated and Gaussian ones replaced by the nodes of a Gauss-Hermite rule, so
every bound, and by autograd its gradient, is known. Model and guide differ from their optimum. All
tensors are float64.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid


@dataclass(frozen=True)
class Points:
    """All values of the latents, or nodes that represent them in expectations.

    Attributes:
        mass: probability of each point, summing to 1 over points; shape (rows, points).
        likelihood: log p(x | z), shape (rows, points), in nats.
        prior: by site, log p given the parents, shape (rows, points).
        guide: by site, log q given the parents and x, shape (rows, points).
    """

    mass: Tensor
    likelihood: Tensor
    prior: dict[str, Tensor]
    guide: dict[str, Tensor]

    @property
    def log_joint(self) -> Tensor:
        return self.likelihood + sum(self.prior.values())

    @property
    def log_guide(self) -> Tensor:
        return sum(self.guide.values())


class Pair:
    """A model and a guide without common parameters, and 7 data.

    Attributes:
        generative: parameters of the model.
        recognition: parameters of the guide.
        x: shape (7, X).
    """

    def __init__(
        self, generative: dict[str, object], recognition: dict[str, object], x: Tensor
    ) -> None:
        self.generative, self.recognition, self.x = _module(generative), _module(recognition), x

    def parameters(self) -> dict[str, Tensor]:
        """The parameters of model and guide, by name."""
        return {
            f"{part}.{name}": value
            for part in ("generative", "recognition")
            for name, value in getattr(self, part).named_parameters()
        }

    def points(self, x: Tensor, *, moving: bool = True) -> Points:
        """The guide's points at x; unless `moving`, only densities depend on parameters."""
        raise NotImplementedError

    def dreams(self) -> tuple[Tensor, Tensor]:
        """For all values of (x, z): the model's mass and log q(z | x), each (points,)."""
        raise NotImplementedError


def _module(values: dict[str, object]) -> nn.Module:
    module = nn.Module()
    for name, value in values.items():
        module.register_parameter(name, nn.Parameter(torch.tensor(value, dtype=torch.float64)))
    return module


def normal(value: Tensor, loc: Tensor, log_scale: Tensor) -> Tensor:
    """The log-density of a Gaussian."""
    noise = (value - loc) / log_scale.exp()
    return -0.5 * noise**2 - log_scale - 0.5 * math.log(2 * math.pi)


def bits(value: Tensor, logits: Tensor) -> Tensor:
    """The log probability of bits, summed over the last dimension."""
    return logsigmoid((2 * value - 1) * logits).sum(-1)


def gauss_hermite(nodes: int, dims: int) -> tuple[Tensor, Tensor]:
    """Nodes, (nodes^dims, dims), and masses, for expectations under a standard normal."""
    places, mass = (torch.from_numpy(array) for array in np.polynomial.hermite_e.hermegauss(nodes))
    mass = mass / mass.sum()
    grid = torch.cartesian_prod(*[places] * dims).reshape(-1, dims)
    return grid, torch.cartesian_prod(*[mass] * dims).reshape(-1, dims).prod(-1)


def states(size: int) -> Tensor:
    """All of {0, 1}^size, (2^size, size)."""
    bit = torch.tensor([0.0, 1.0], dtype=torch.float64)
    return torch.cartesian_prod(*[bit] * size).reshape(-1, size)
