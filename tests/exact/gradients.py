"""Many independent gradients of an objective for one batch.

The step is recorded once and replayed for thousands of draws at a time by `torch.vmap`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyro
import torch
from exact.small_pairs import Pair
from exact.targets import Target
from pyro.infer import ELBO
from torch import Tensor
from torch.fx import GraphModule

from pvae.engine.recording import record
from pvae.objectives import Objective

__all__ = ["Draws", "assert_unbiased", "draw", "imprecise", "misses"]

CHUNK = 20_000


@dataclass(frozen=True)
class Draws:
    """Moments of a loss and of gradients over independent draws.

    Attributes:
        count: number of draws.
        mean: means, by parameter name and "loss".
        std: standard deviations of one draw, likewise.
    """

    count: int
    mean: dict[str, Tensor]
    std: dict[str, Tensor]

    def std_error(self, name: str) -> Tensor:
        """Standard errors of the means."""
        return self.std[name] / self.count**0.5

    def variance(self, part: str = "") -> float:
        """Variance of the gradients with this prefix, summed over their elements."""
        return self._square(self.std, part)

    def signal_to_noise(self, part: str = "") -> float:
        """The norm of the mean gradient divided by the standard deviation of one draw."""
        return (self._square(self.mean, part) / self.variance(part)) ** 0.5

    @staticmethod
    def _square(values: dict[str, Tensor], part: str) -> float:
        kept = [v for name, v in values.items() if name.startswith(part) and name != "loss"]
        return sum(value.square().sum().item() for value in kept)


def draw(
    objective: ELBO,
    pair: Pair,
    x: Tensor,
    count: int,
    *,
    seed: int = 1,
    enough: Callable[[Draws], bool] = lambda _: False,
) -> Draws:
    """Draw gradients of the objective for these rows.

    Args:
        objective: its `loss_and_grads` is drawn; gradients of its own parameters are omitted.
        pair: the model and the guide.
        x: the batch, shape (rows, X).
        count: maximum number of draws, rounded up to a multiple of the chunk size.
        seed: seed of the generators; their states are not restored.
        enough: whether to stop; it may use standard errors, but not means.
    """
    replay, keys = _replay(objective, pair, x)
    own = dict.fromkeys(["loss", *pair.parameters()])
    size = min(count, CHUNK)
    total = 0
    zero = torch.zeros(size, dtype=torch.float64)
    sums: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
    torch.manual_seed(seed)
    while True:
        with torch.no_grad():
            values = dict(zip(keys, torch.vmap(replay, randomness="different")(zero), strict=True))
        total += size
        for key in own:
            value = values.get(key)
            if value is None:  # the objective does not train it
                value = torch.zeros(size, *pair.parameters()[key].shape)
            value = value.double()
            origin, first, second = sums.get(key, (value.mean(0), 0.0, 0.0))
            apart = value - origin  # avoids cancellation of the squares
            sums[key] = (origin, first + apart.sum(0), second + (apart**2).sum(0))
        mean = {key: origin + first / total for key, (origin, first, _) in sums.items()}
        std = {
            key: ((second - first**2 / total) / (total - 1)).clamp(min=0).sqrt()
            for key, (_, first, second) in sums.items()
        }
        draws = Draws(total, mean, std)
        if total >= count or enough(draws):
            return draws


def _replay(
    objective: ELBO, pair: Pair, x: Tensor
) -> tuple[Callable[[Tensor], list[Tensor]], list[str]]:
    """A function from a zero to the loss and gradients, and the gradients' names."""
    networks = objective.networks() if isinstance(objective, Objective) else {}
    named = pair.parameters()
    for prefix, network in networks.items():
        named |= {f"{prefix}.{name}": value for name, value in network.named_parameters()}
    buffers = [buffer for network in networks.values() for buffer in network.buffers()]

    def loss_and_grads(x: Tensor) -> object:
        return objective.loss_and_grads(pair.model, pair.guide, x)

    with pyro.get_param_store().scope():
        objective.loss(pair.model, pair.guide, x)  # the objective examines a pair once
        recording = record(loss_and_grads, list(named.values()), buffers, (x,), {})
    names = {id(parameter): name for name, parameter in named.items()}
    graph, held = _for_vmap(recording.graph), (x, *recording.constants)

    def replay(zero: Tensor) -> list[Tensor]:
        outputs = graph(zero, *held)
        # Pyro's wake-sleep returns several losses: sum them.
        return [sum(outputs[: recording.losses], torch.zeros(())), *outputs[recording.losses :]]

    return replay, ["loss", *(names[id(parameter)] for parameter in recording.trained)]


def _for_vmap(module: GraphModule) -> Callable[..., Sequence[Tensor]]:
    """The graph with a zero, batched by vmap, as its first input.

    The zero is added to tensors that are filled at random, as by `normal_`, and to buffers that are
    written: vmap writes separate values per draw only into a batched tensor.
    """
    graph = GraphModule(module, module.graph).graph
    first = next(iter(graph.nodes))
    with graph.inserting_before(first):
        zero = graph.placeholder("zero")
    for node in list(graph.nodes):
        if not (node.op == "call_function" and node.target._schema.is_mutable):
            continue
        written = node.args[0]
        if torch.Tag.nondeterministic_seeded in node.target.tags or written.op == "placeholder":
            with graph.inserting_before(node):
                own = graph.call_function(torch.ops.aten.add.Tensor, (written, zero))
                own = graph.call_function(torch.ops.aten.to.dtype, (own, written.meta["val"].dtype))
            nodes = list(graph.nodes)
            for user in nodes[nodes.index(node) :]:
                user.replace_input_with(written, own)
    graph.lint()
    return GraphModule(module, graph)


def misses(draws: Draws, exact: dict[str, Tensor], within: float = 4.0) -> list[str]:
    """Names of values with an element more than `within` standard errors from the exact one."""
    found = []
    for name, value in exact.items():
        # Rounding remains even without noise.
        rounding = 1e-7 * (1 + value.abs())
        ratio = (draws.mean[name] - value).abs() / (draws.std_error(name) + rounding)
        if ratio.max() > within:
            found.append(f"{name}: {ratio.max().item():.1f} standard errors")
    return found


def imprecise(draws: Draws, gradients: dict[str, Tensor], precision: float = 0.01) -> list[str]:
    """Names of gradients whose standard errors are too large for a meaningful test.

    The norm of the errors is compared with the norm of the parameter's exact gradient, or, if that
    is tiny, with a fraction of the norm of the whole gradient.
    """
    whole = sum(gradient.square().sum() for gradient in gradients.values()) ** 0.5
    found = []
    for name, gradient in gradients.items():
        noise = draws.std_error(name).norm() / torch.maximum(gradient.norm(), 0.1 * whole)
        if noise > precision:
            found.append(f"{name}: the standard error is {noise:.2%} of the gradient")
    return found


def assert_unbiased(
    objective: ELBO, pair: Pair, x: Tensor, target: Target, count: int = 2_000_000
) -> None:
    """Assert that loss and gradient elements are within 4 standard errors of the exact ones.

    Draws gradients until they are known to one percent, at most `count`. Among thousands of
    elements some deviate by chance: it is a bias if they deviate again in four times as many new
    draws.
    """
    gradients = target.gradients(pair)
    exact = {"loss": target.value.detach(), **gradients}
    draws = draw(objective, pair, x, count, enough=lambda so_far: not imprecise(so_far, gradients))
    # An explicit message, since pytest rewrites no assertions here.
    vague = imprecise(draws, gradients)
    assert not vague, "; ".join(vague)
    if misses(draws, exact):
        missed = misses(draw(objective, pair, x, 4 * draws.count, seed=2), exact)
        assert not missed, "; ".join(missed)
