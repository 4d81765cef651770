"""Pairs of a few parameters whose expectations under the guide are finite sums.

What is random is enumerated where it is discrete, and put on the nodes of a Gauss-Hermite rule
where it is Gaussian; so that every bound, and by autograd its gradient, is known. Model and guide
are away from their best fit. All in float64.
"""

import math
from dataclasses import dataclass

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

ROWS = 7


@dataclass(frozen=True)
class Points:
    """All that the guide can draw, or what stands for it in an expectation.

    Attributes:
        mass: of each point, which sum to 1 over the points; shape (rows, points).
        likelihood: log p(x | z), shape (rows, points), in nats.
        prior: by site, log p of it given its parents, (rows, points).
        guide: by site, log q of it given its parents and x, (rows, points).
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
    """A model and a guide that share nothing, and 7 data.

    Attributes:
        generative: the model's parameters.
        recognition: the guide's.
        x: shape (7, X).
    """

    def __init__(
        self, generative: dict[str, object], recognition: dict[str, object], x: Tensor
    ) -> None:
        self.generative, self.recognition, self.x = _module(generative), _module(recognition), x

    def parameters(self) -> dict[str, Tensor]:
        """Of model and guide, by name."""
        return {
            f"{part}.{name}": value
            for part in ("generative", "recognition")
            for name, value in getattr(self, part).named_parameters()
        }

    def points(self, x: Tensor, *, moving: bool = True) -> Points:
        """Those of the guide at x; nothing but densities depends on parameters unless `moving`."""
        raise NotImplementedError

    def dreams(self) -> tuple[Tensor, Tensor]:
        """Of all that the model can draw: the mass, and log q(z | x) of it; each (points,)."""
        raise NotImplementedError


def _module(values: dict[str, object]) -> nn.Module:
    module = nn.Module()
    for name, value in values.items():
        module.register_parameter(name, nn.Parameter(torch.tensor(value, dtype=torch.float64)))
    return module


def _normal(value: Tensor, loc: Tensor, log_scale: Tensor) -> Tensor:
    noise = (value - loc) / log_scale.exp()
    return -0.5 * noise**2 - log_scale - 0.5 * math.log(2 * math.pi)


def _bits(value: Tensor, logits: Tensor) -> Tensor:
    return logsigmoid((2 * value - 1) * logits).sum(-1)


def gauss_hermite(nodes: int, dims: int) -> tuple[Tensor, Tensor]:
    """Nodes, (nodes^dims, dims), and their mass, for expectations under standard noise."""
    places, mass = (torch.from_numpy(array) for array in np.polynomial.hermite_e.hermegauss(nodes))
    mass = mass / mass.sum()
    grid = torch.cartesian_prod(*[places] * dims).reshape(-1, dims)
    return grid, torch.cartesian_prod(*[mass] * dims).reshape(-1, dims).prod(-1)


def states(size: int) -> Tensor:
    """All of {0, 1}^size, (2^size, size)."""
    bit = torch.tensor([0.0, 1.0], dtype=torch.float64)
    return torch.cartesian_prod(*[bit] * size).reshape(-1, size)


class Gaussian(Pair):
    """p(x, z) = N(z; m, r^2) N(x; W z + b, s^2 I), one latent; the guide is affine in x.

    Draws of a `scored` guide have no gradient.
    """

    nodes = 80

    def __init__(self, *, scored: bool = False) -> None:
        self.scored = scored
        super().__init__(
            {
                "z_loc": 1.0,
                "z_log_scale": -0.1,
                "slope": [1.1, -0.9],
                "bias": [0.3, 0.5],
                "log_scale": -0.3,
            },
            {"slope": [0.6, -0.1], "bias": 0.1, "log_scale": -0.7},
            _continuous(),
        )

    def model(self, x: Tensor) -> None:
        p = pyro.module("generative", self.generative)
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(p.z_loc.expand(len(x)), p.z_log_scale.exp()))
            loc = z[..., None] * p.slope + p.bias
            pyro.sample("x", dist.Normal(loc, p.log_scale.exp()).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        q = pyro.module("recognition", self.recognition)
        with pyro.plate("data", len(x), dim=-1):
            fn = dist.Normal(x @ q.slope + q.bias, q.log_scale.exp())
            pyro.sample("z", fn.has_rsample_(not self.scored))

    def points(self, x: Tensor, *, moving: bool = True) -> Points:
        noise, mass = gauss_hermite(self.nodes, 1)
        p, q = self.generative, self.recognition
        loc = (x @ q.slope + q.bias)[:, None]
        z = loc + q.log_scale.exp() * noise[:, 0]
        z = z if moving else z.detach()
        return Points(
            mass.expand_as(z),
            _normal(x[:, None], z[..., None] * p.slope + p.bias, p.log_scale).sum(-1),
            {"z": _normal(z, p.z_loc, p.z_log_scale)},
            {"z": _normal(z, loc, q.log_scale)},
        )

    def dreams(self) -> tuple[Tensor, Tensor]:
        noise, mass = gauss_hermite(3, 3)  # exact: log q is quadratic in the noise
        p, q = self.generative, self.recognition
        z = (p.z_loc + p.z_log_scale.exp() * noise[:, 0]).detach()
        x = (z[:, None] * p.slope + p.bias + p.log_scale.exp() * noise[:, 1:]).detach()
        return mass, _normal(z, x @ q.slope + q.bias, q.log_scale)

    def evidence(self, x: Tensor) -> Tensor:
        """log p(x), shape (rows,), in nats."""
        p = self.generative
        wide = (p.z_log_scale.exp() * p.slope)[:, None]
        covariance = wide @ wide.T + p.log_scale.exp() ** 2 * torch.eye(2).double()
        return dist.MultivariateNormal(p.z_loc * p.slope + p.bias, covariance).log_prob(x)

    def kl(self, x: Tensor) -> Tensor:
        """KL(q(z | x) || p(z)), shape (rows,), in nats."""
        p, q = self.generative, self.recognition
        ratio = q.log_scale - p.z_log_scale
        apart = (x @ q.slope + q.bias - p.z_loc) / p.z_log_scale.exp()
        return 0.5 * ((2 * ratio).exp() + apart**2 - 1) - ratio

    def expected_likelihood(self, x: Tensor) -> Tensor:
        """The guide's mean of log p(x | z), shape (rows,), in nats."""
        p, q = self.generative, self.recognition
        loc = (x @ q.slope + q.bias)[:, None] * p.slope + p.bias
        spread = (q.log_scale.exp() * p.slope) ** 2
        square = ((x - loc) ** 2 + spread) / p.log_scale.exp() ** 2
        return -(0.5 * square + p.log_scale + 0.5 * math.log(2 * math.pi)).sum(-1)

    def make_guide_exact(self) -> None:
        """Set the guide to the posterior."""
        p, q = self.generative, self.recognition
        with torch.no_grad():
            noise = (2 * p.log_scale).exp()
            precision = (-2 * p.z_log_scale).exp() + (p.slope**2).sum() / noise
            q.slope.copy_(p.slope / noise / precision)
            prior = p.z_loc * (-2 * p.z_log_scale).exp()
            q.bias.copy_((prior - (p.slope * p.bias).sum() / noise) / precision)
            q.log_scale.copy_(-0.5 * precision.log())


_GUIDES: dict[str, dict[str, object]] = {
    "up": {
        "slope": [0.7, 0.1],
        "bias": -0.5,
        "log_scale": -0.7,
        "then_slope": 0.4,
        "then_bias": 0.7,
        "then_log_scale": -0.6,
    },
    "down": {
        "slope": [0.5, -0.1],
        "bias": 0.3,
        "log_scale": -0.4,
        "then_slope": 0.5,
        "then_data": [0.3, 0.0],
        "then_bias": -0.2,
        "then_log_scale": -0.9,
    },
}


class Hierarchy(Pair):
    """p(x, z1, z2) = N(z2; 0, 1) N(z1; a z2 + c, r^2) N(x; W z1 + b, s^2 I).

    The guide is q(z1 | x) q(z2 | z1) if `order` is "up", q(z2 | x) q(z1 | z2, x) if it is "down".
    Draws of `scored` sites have no gradient.
    """

    nodes = 16

    def __init__(self, order: str, *, scored: tuple[str, ...] = ()) -> None:
        super().__init__(
            {
                "top_slope": 0.6,
                "top_bias": -0.4,
                "top_log_scale": -0.4,
                "slope": [1.1, -0.5],
                "bias": [0.5, 0.2],
                "log_scale": -0.2,
            },
            _GUIDES[order],
            _continuous(),
        )
        self.order, self.scored = order, scored

    def model(self, x: Tensor) -> None:
        p = pyro.module("generative", self.generative)
        with pyro.plate("data", len(x), dim=-1):
            z2 = pyro.sample("z2", dist.Normal(x.new_zeros(len(x)), 1.0))
            z1_loc = p.top_slope * z2 + p.top_bias
            z1 = pyro.sample("z1", dist.Normal(z1_loc, p.top_log_scale.exp()))
            loc = z1[..., None] * p.slope + p.bias
            pyro.sample("x", dist.Normal(loc, p.log_scale.exp()).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        q = pyro.module("recognition", self.recognition)
        first, second = ("z1", "z2") if self.order == "up" else ("z2", "z1")
        with pyro.plate("data", len(x), dim=-1):
            fn = dist.Normal(x @ q.slope + q.bias, q.log_scale.exp())
            z = pyro.sample(first, fn.has_rsample_(first not in self.scored))
            fn = dist.Normal(self._then(x, z), q.then_log_scale.exp())
            pyro.sample(second, fn.has_rsample_(second not in self.scored))

    def _then(self, x: Tensor, z: Tensor) -> Tensor:
        """The mean of the guide's second latent, given its first."""
        q = self.recognition
        loc = q.then_slope * z + q.then_bias
        return loc if self.order == "up" else loc + x @ q.then_data

    def points(self, x: Tensor, *, moving: bool = True) -> Points:
        noise, mass = gauss_hermite(self.nodes, 2)
        p, q, rows = self.generative, self.recognition, x[:, None]
        first_loc = rows @ q.slope + q.bias
        first = first_loc + q.log_scale.exp() * noise[:, 0]
        first = first if moving else first.detach()
        second_loc = self._then(rows, first)
        second = second_loc + q.then_log_scale.exp() * noise[:, 1]
        second = second if moving else second.detach()
        log_first = _normal(first, first_loc, q.log_scale)
        log_second = _normal(second, second_loc, q.then_log_scale)
        up = self.order == "up"
        z1, z2 = (first, second) if up else (second, first)
        return Points(
            mass.expand_as(z1),
            _normal(x[:, None], z1[..., None] * p.slope + p.bias, p.log_scale).sum(-1),
            {
                "z1": _normal(z1, p.top_slope * z2 + p.top_bias, p.top_log_scale),
                "z2": _normal(z2, torch.zeros(()), torch.zeros(())),
            },
            {"z1" if up else "z2": log_first, "z2" if up else "z1": log_second},
        )

    def dreams(self) -> tuple[Tensor, Tensor]:
        noise, mass = gauss_hermite(3, 4)  # exact: log q is quadratic in the noise
        p, q = self.generative, self.recognition
        with torch.no_grad():
            z2 = noise[:, 0]
            z1 = p.top_slope * z2 + p.top_bias + p.top_log_scale.exp() * noise[:, 1]
            x = z1[:, None] * p.slope + p.bias + p.log_scale.exp() * noise[:, 2:]
        first, second = (z1, z2) if self.order == "up" else (z2, z1)
        log_first = _normal(first, x @ q.slope + q.bias, q.log_scale)
        return mass, log_first + _normal(second, self._then(x, first), q.then_log_scale)

    def evidence(self, x: Tensor) -> Tensor:
        """log p(x), shape (rows,), in nats."""
        p = self.generative
        variance = p.top_slope**2 + (2 * p.top_log_scale).exp()
        covariance = variance * torch.outer(p.slope, p.slope)
        covariance = covariance + p.log_scale.exp() ** 2 * torch.eye(2).double()
        return dist.MultivariateNormal(p.top_bias * p.slope + p.bias, covariance).log_prob(x)


class Belief(Pair):
    """A belief network of binary units, 1 above 2 above 3 of data; the guide is bottom up.

    p(x, z1, z2) = p(z2) p(z1 | z2) p(x | z1), q(z | x) = q(z1 | x) q(z2 | z1), all logits affine.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "top": [-0.1],
                "down2": [[1.1, -1.0]],
                "bias2": [-0.5, 0.8],
                "down1": [[1.3, -0.5, 0.8], [0.1, -0.1, 1.0]],
                "bias1": [0.1, -0.3, -1.0],
            },
            {
                "up1": [[0.6, -0.8], [-1.1, 0.3], [0.1, 0.4]],
                "bias1": [1.5, -0.4],
                "up2": [[-0.3], [0.3]],
                "bias2": [-0.9],
            },
            states(3)[[5, 1, 6, 4, 5, 2, 7]],
        )

    def model(self, x: Tensor) -> None:
        p = pyro.module("generative", self.generative)
        with pyro.plate("data", len(x), dim=-1):
            z2 = pyro.sample("z2", dist.Bernoulli(logits=p.top.expand(len(x), 1)).to_event(1))
            z1 = pyro.sample("z1", dist.Bernoulli(logits=z2 @ p.down2 + p.bias2).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=z1 @ p.down1 + p.bias1).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        q = pyro.module("recognition", self.recognition)
        with pyro.plate("data", len(x), dim=-1):
            z1 = pyro.sample("z1", dist.Bernoulli(logits=x @ q.up1 + q.bias1).to_event(1))
            pyro.sample("z2", dist.Bernoulli(logits=z1 @ q.up2 + q.bias2).to_event(1))

    def points(self, x: Tensor, *, moving: bool = True) -> Points:
        p, q = self.generative, self.recognition
        z = states(3)
        z1, z2 = z[:, :2], z[:, 2:]
        rows = (len(x), len(z))
        guide = {
            "z1": _bits(z1, (x @ q.up1 + q.bias1)[:, None]),
            "z2": _bits(z2, z1 @ q.up2 + q.bias2).expand(rows),
        }
        mass = (guide["z1"] + guide["z2"]).exp()
        return Points(
            mass if moving else mass.detach(),
            _bits(x[:, None], z1 @ p.down1 + p.bias1),
            {
                "z1": _bits(z1, z2 @ p.down2 + p.bias2).expand(rows),
                "z2": _bits(z2, p.top).expand(rows),
            },
            guide,
        )

    def dreams(self) -> tuple[Tensor, Tensor]:
        x = states(3)
        everything = self.points(x)
        return everything.log_joint.exp().detach().flatten(), everything.log_guide.flatten()

    def evidence(self, x: Tensor) -> Tensor:
        """log p(x), shape (rows,), in nats."""
        return self.points(x).log_joint.logsumexp(-1)


def _continuous() -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return 1.0 + 1.2 * torch.randn(ROWS, 2, generator=generator, dtype=torch.float64)
