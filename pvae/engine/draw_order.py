"""Compile a graph around its random operations, which are executed in the recorded order."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

__all__ = ["Staged", "compile_around_draws", "draws", "stages"]

_EMPTY = (torch.ops.aten.empty.memory_format, torch.ops.aten.empty_like.default)

Run = Callable[..., Sequence[Any]]


@dataclass(frozen=True)
class Staged:
    """A graph as parts that are executed one after the other.

    Attributes:
        parts: what executes a part, the places of its inputs, and those of its results.
        size: number of places, of which the inputs of the graph are the first.
        outputs: places of the results of the graph.
    """

    parts: Sequence[tuple[Run, Sequence[int], Sequence[int]]]
    size: int
    outputs: Sequence[int]

    def __call__(self, *inputs: Tensor) -> list[Any]:
        """Execute the graph."""
        values: list[Any] = [*inputs, *[None] * (self.size - len(inputs))]
        for run, given, results in self.parts:
            for place, value in zip(results, run(*[values[i] for i in given]), strict=True):
                values[place] = value
        return [values[place] for place in self.outputs]


def draws(graph: Graph) -> list[Node]:
    """The random operations, in the recorded order."""
    return [node for node in graph.nodes if _is_draw(node)]


def stages(graph: Graph) -> dict[Node, int]:
    """The stage of each operation: even for draws, odd for what is computed.

    A draw comes after all draws that were recorded before it, and otherwise as early as its inputs
    allow: the noise of reparameterized sites is stage 0, and everything else is stage 1.
    """
    found: dict[Node, int] = {}
    latest = 0
    for node in graph.nodes:
        if node.op != "call_function" or _is_memory_of_a_draw(node):
            continue
        before = [found[other] for other in node.all_input_nodes if other in found]
        if _is_draw(node):
            latest = found[node] = max([latest, *(stage + stage % 2 for stage in before)])
            found.update({one: latest for one in node.all_input_nodes if _is_memory_of_a_draw(one)})
        else:
            found[node] = max([1, *(stage + 1 - stage % 2 for stage in before)])
    return found


def compile_around_draws(
    graph: Graph,
    inputs: Sequence[Tensor],
    compile_part: Callable[[GraphModule, Sequence[Any]], Run],
) -> Staged:
    """Compile the stages of a graph that draw nothing, and execute the others as they are.

    A compiler may reorder random operations, since nothing in the graph ties them together, and
    each would then draw what another one drew when the graph was recorded.

    Args:
        graph: the operations; they are executed once.
        inputs: example inputs.
        compile_part: compiles a part of the graph for example inputs.
    """
    stage = stages(graph)
    nodes = [node for node in graph.nodes if node.op in ("placeholder", "call_function")]
    places = {node: place for place, node in enumerate(nodes)}
    values: dict[Node, Any] = dict(zip(graph.find_nodes(op="placeholder"), inputs, strict=True))
    parts = []
    for number in sorted(set(stage.values())):
        part, given, results = _part(graph, stage, number)
        arguments = [values[node] for node in given]
        run = part.forward if number % 2 == 0 else compile_part(part, arguments)
        values.update(zip(results, run(*arguments), strict=True))
        parts.append((run, [places[n] for n in given], [places[n] for n in results]))
    (outputs,) = graph.output_node().args
    return Staged(parts, len(nodes), [places[node] for node in outputs])  # type: ignore[union-attr]


def _part(
    graph: Graph, stage: dict[Node, int], number: int
) -> tuple[GraphModule, list[Node], list[Node]]:
    """The operations of a stage, what they need, and what others need of them."""
    own = [node for node, its in stage.items() if its == number]
    own.sort(key={node: place for place, node in enumerate(graph.nodes)}.__getitem__)
    inside = set(own)
    given = dict.fromkeys(n for node in own for n in node.all_input_nodes if n not in inside)
    results = [node for node in own if any(user not in inside for user in node.users)]
    part, copies = Graph(), dict[Node, Node]()
    for node in given:
        copies[node] = part.placeholder(node.name)
        copies[node].meta.update(node.meta)
    for node in own:
        copies[node] = part.node_copy(node, copies.__getitem__)
    part.output(tuple(copies[node] for node in results))
    return GraphModule(nn.Module(), part), list(given), results


def _is_draw(node: Node) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def _is_memory_of_a_draw(node: Node) -> bool:
    return node.target in _EMPTY and bool(node.users) and all(map(_is_draw, node.users))
