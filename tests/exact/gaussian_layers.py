"""Small pairs with one or two Gaussian layers, and evidence in closed form."""

import math

import pyro
import pyro.distributions as dist
import torch
from exact.small_pairs import Pair, Points, gauss_hermite, normal
from torch import Tensor

ROWS = 7


class Gaussian(Pair):
    """p(x, z) = N(z; m, r^2) N(x; W z + b, s^2 I), one latent; the guide is affine in x.

    Draws of a `scored` guide carry no gradient.
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
            normal(x[:, None], z[..., None] * p.slope + p.bias, p.log_scale).sum(-1),
            {"z": normal(z, p.z_loc, p.z_log_scale)},
            {"z": normal(z, loc, q.log_scale)},
        )

    def dreams(self) -> tuple[Tensor, Tensor]:
        noise, mass = gauss_hermite(3, 3)  # exact: log q is quadratic in the noise
        p, q = self.generative, self.recognition
        z = (p.z_loc + p.z_log_scale.exp() * noise[:, 0]).detach()
        x = (z[:, None] * p.slope + p.bias + p.log_scale.exp() * noise[:, 1:]).detach()
        return mass, normal(z, x @ q.slope + q.bias, q.log_scale)

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
        """E_q[log p(x | z)], shape (rows,), in nats."""
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
    Draws of `scored` sites carry no gradient.
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
        """The guide's mean of its second latent given its first."""
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
        log_first = normal(first, first_loc, q.log_scale)
        log_second = normal(second, second_loc, q.then_log_scale)
        up = self.order == "up"
        z1, z2 = (first, second) if up else (second, first)
        return Points(
            mass.expand_as(z1),
            normal(x[:, None], z1[..., None] * p.slope + p.bias, p.log_scale).sum(-1),
            {
                "z1": normal(z1, p.top_slope * z2 + p.top_bias, p.top_log_scale),
                "z2": normal(z2, torch.zeros(()), torch.zeros(())),
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
        log_first = normal(first, x @ q.slope + q.bias, q.log_scale)
        return mass, log_first + normal(second, self._then(x, first), q.then_log_scale)

    def evidence(self, x: Tensor) -> Tensor:
        """log p(x), shape (rows,), in nats."""
        p = self.generative
        variance = p.top_slope**2 + (2 * p.top_log_scale).exp()
        covariance = variance * torch.outer(p.slope, p.slope)
        covariance = covariance + p.log_scale.exp() ** 2 * torch.eye(2).double()
        return dist.MultivariateNormal(p.top_bias * p.slope + p.bias, covariance).log_prob(x)


def _continuous() -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return 1.0 + 1.2 * torch.randn(ROWS, 2, generator=generator, dtype=torch.float64)


REPARAMETERIZED = {
    "gaussian": Gaussian,
    "up": lambda: Hierarchy("up"),
    "down": lambda: Hierarchy("down"),
}
SCORED = {
    "gaussian by scores": lambda: Gaussian(scored=True),
    "up, one by scores": lambda: Hierarchy("up", scored=("z2",)),
}
