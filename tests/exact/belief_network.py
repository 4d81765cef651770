"""A small pair of binary units, whose evidence is a sum over all their states."""

import pyro
import pyro.distributions as dist
from exact.small_pairs import Pair, Points, bits, states
from torch import Tensor


class Belief(Pair):
    """A belief network with 1, 2 and 3 binary units (z2, z1, x) and a bottom-up guide.

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
            "z1": bits(z1, (x @ q.up1 + q.bias1)[:, None]),
            "z2": bits(z2, z1 @ q.up2 + q.bias2).expand(rows),
        }
        mass = (guide["z1"] + guide["z2"]).exp()
        return Points(
            mass if moving else mass.detach(),
            bits(x[:, None], z1 @ p.down1 + p.bias1),
            {
                "z1": bits(z1, z2 @ p.down2 + p.bias2).expand(rows),
                "z2": bits(z2, p.top).expand(rows),
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
