"""Many independent gradients of an objective, each of one step at the batch size that is asked for.

The step is recorded once and then carried out for thousands of draws at a time, by `torch.vmap`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyro
import torch
from pyro.infer import ELBO
from small_pairs import Pair
from torch import Tensor
from torch.fx import GraphModule

from pvae.capture import Recording, record

__all__ = ["Draws", "assert_unbiased", "draw", "misses"]

CHUNK = 20_000


@dataclass(frozen=True)
class Draws:
    """Moments of a loss and of gradients over independent draws.

    Attributes:
        count: of draws.
        mean: by name of the parameter, and of "loss".
        std: of one draw, likewise.
    """

    count: int
    mean: dict[str, Tensor]
    std: dict[str, Tensor]

    def std_error(self, name: str) -> Tensor:
        """Of the mean."""
        return self.std[name] / self.count**0.5

    def variance(self, part: str = "") -> float:
        """Of one draw of the gradients whose names start so, summed over their elements."""
        return self._square(self.std, part)

    def signal_to_noise(self, part: str = "") -> float:
        """The norm of the mean gradient over the standard deviation of one draw."""
        return (self._square(self.mean, part) / self.variance(part)) ** 0.5

    @staticmethod
    def _square(values: dict[str, Tensor], part: str) -> float:
        kept = [v for name, v in values.items() if name.startswith(part) and name != "loss"]
        return sum(value.square().sum().item() for value in kept)


def draw(objective: ELBO, pair: Pair, x: Tensor, count: int, seed: int = 1) -> Draws:
    """Draw `count` gradients of the objective, or a few more; 0 for what it does not train."""
    recording, named = _recorded(objective, pair, x), pair.parameters()
    names = {id(parameter): name for name, parameter in named.items()}
    # An objective of several losses is tested for their sum.
    keys = ["loss", *(names[id(parameter)] for parameter in recording.trained)]
    replay, held = _for_vmap(recording.graph), (x, *recording.constants)

    def one(zero: Tensor) -> list[Tensor]:
        outputs = replay(zero, *held)
        loss = sum(outputs[: recording.losses], torch.zeros(()))
        return [loss, *outputs[recording.losses :]]

    size = min(count, CHUNK)
    chunks = -(-count // size)
    torch.manual_seed(seed)
    sums = [(0.0, 0.0)] * len(keys)
    origin: list[Tensor] = []
    for _ in range(chunks):
        with torch.no_grad():
            values = torch.vmap(one, randomness="different")(torch.zeros(size).double())
        origin = origin or [value.mean(0) for value in values]  # or the squares cancel
        apart = [value - zero for value, zero in zip(values, origin, strict=True)]
        sums = [(a + v.sum(0), b + (v**2).sum(0)) for (a, b), v in zip(sums, apart, strict=True)]
    total = chunks * size
    zeros = {name: torch.zeros_like(parameter.detach()) for name, parameter in named.items()}
    mean, std = dict(zeros), dict(zeros)
    for key, zero, (first, second) in zip(keys, origin, sums, strict=True):
        mean[key] = zero + first / total
        std[key] = ((second - first**2 / total) / (total - 1)).clamp(min=0).sqrt()
    return Draws(total, mean, std)


def _recorded(objective: ELBO, pair: Pair, x: Tensor) -> Recording:
    def loss_and_grads(x: Tensor) -> object:
        return objective.loss_and_grads(pair.model, pair.guide, x)

    with pyro.get_param_store().scope():
        return record(loss_and_grads, list(pair.parameters().values()), [], (x,), {})


def _for_vmap(module: GraphModule) -> Callable[..., Sequence[Tensor]]:
    """The graph with a zero as its first input; what is filled at random depends on it.

    vmap refuses to fill a tensor, as by `normal_`, with other noise for each draw unless the tensor
    is one for each draw already.
    """
    graph = GraphModule(module, module.graph).graph
    first = next(iter(graph.nodes))
    with graph.inserting_before(first):
        zero = graph.placeholder("zero")
    for node in list(graph.nodes):
        if torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
            continue
        if node.target._schema.is_mutable:
            filled = node.args[0]
            with graph.inserting_before(node):
                own = graph.call_function(torch.ops.aten.mul.Tensor, (filled, zero))
                own = graph.call_function(torch.ops.aten.to.dtype, (own, filled.meta["val"].dtype))
            later = False
            for user in list(graph.nodes):
                later = later or user is node
                if later:
                    user.replace_input_with(filled, own)
    graph.lint()
    return GraphModule(module, graph)


def misses(draws: Draws, exact: dict[str, Tensor], within: float = 4.0) -> list[str]:
    """Which gradients have an element further from the exact one than so many standard errors."""
    found = []
    for name, gradient in exact.items():
        # Where there is no noise, rounding is left.
        allowed = within * draws.std_error(name) + 1e-9
        worst = ((draws.mean[name] - gradient).abs() / allowed).max().item() * within
        if worst > within:
            found.append(f"{name}: {worst:.1f} standard errors away")
    return found


def assert_unbiased(draws: Draws, exact: dict[str, Tensor], precision: float = 0.01) -> None:
    """Every element of every gradient is within 4 standard errors of the exact one.

    And the standard errors are small enough for this to say something: for each parameter their
    norm is at most `precision` times its exact gradient's, or the whole gradient's where that of a
    parameter is next to nothing.
    """
    assert not misses(draws, exact)
    whole = sum(gradient.square().sum() for gradient in exact.values()) ** 0.5
    for name, gradient in exact.items():
        size = max(gradient.norm(), 0.1 * whole)
        noise = (draws.std_error(name).norm() / size).item()
        assert noise <= precision, f"{name}: the standard error is {noise:.2%} of the gradient"
