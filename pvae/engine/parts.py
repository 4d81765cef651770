"""Compile a graph in parts: random operations in order, gradients of weights beside each other."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

from pvae.engine.draw_order import stages
from pvae.engine.streams import beside
from pvae.engine.tails import tails

__all__ = ["Parts", "compile_in_parts"]

Run = Callable[..., Sequence[Any]]

_LIKE = {torch.ops.aten.ones_like.default: 1, torch.ops.aten.zeros_like.default: 0}


@dataclass(frozen=True)
class _Part:
    """A part of a graph.

    Attributes:
        run: executes it.
        given: places of its inputs.
        results: places of its results.
    """

    run: Run
    given: Sequence[int]
    results: Sequence[int]

    def __call__(self, values: list[Any]) -> None:
        outputs = self.run(*[values[place] for place in self.given])
        for place, value in zip(self.results, outputs, strict=True):
            values[place] = value


@dataclass(frozen=True)
class Parts:
    """A graph as parts, in groups that are executed one after the other.

    Attributes:
        groups: parts of a group do not depend on each other.
        size: number of places, of which the inputs of the graph are the first.
        outputs: places of the results of the graph.
    """

    groups: Sequence[Sequence[_Part]]
    size: int
    outputs: Sequence[int]

    def __call__(self, *inputs: Tensor) -> list[Any]:
        """Execute the graph."""
        values: list[Any] = [*inputs, *[None] * (self.size - len(inputs))]
        for group in self.groups:
            beside([partial(part, values) for part in group])
        return [values[place] for place in self.outputs]


def compile_in_parts(
    graph: Graph,
    inputs: Sequence[Tensor],
    compile_part: Callable[[GraphModule, Sequence[Any]], Run],
) -> Parts:
    """Compile the parts of a graph that draw nothing, and execute the others as they are.

    A compiler may reorder random operations, since nothing in the graph ties them together, and
    each would then draw what another one drew when the graph was recorded. And it computes the
    gradients of weights one after the other, though on a GPU they fill no more than a part of it.

    Args:
        graph: the operations, executed once; constants in it are replaced by simpler ones.
        inputs: example inputs.
        compile_part: compiles a part of the graph for example inputs.
    """
    _fill_constants(graph)
    last = tails(graph)
    late = {node for tail in last for node in tail}
    stage = {node: number for node, number in stages(graph).items() if node not in late}
    chosen = [
        ([[n for n, its in stage.items() if its == number]], number % 2 == 0)
        for number in sorted(set(stage.values()))
    ]
    nodes = [node for node in graph.nodes if node.op in ("placeholder", "call_function")]
    places = {node: place for place, node in enumerate(nodes)}
    values: dict[Node, Any] = dict(zip(graph.find_nodes(op="placeholder"), inputs, strict=True))
    groups = []
    for members, of_draws in [*chosen, (last, False)]:
        group = []
        for own in members:
            module, given, results = _module(sorted(own, key=places.__getitem__))
            arguments = [values[node] for node in given]
            run = module.forward if of_draws else compile_part(module, arguments)
            values.update(zip(results, run(*arguments), strict=True))
            group.append(_Part(run, [places[n] for n in given], [places[n] for n in results]))
        groups.append(group)
    (outputs,) = graph.output_node().args
    return Parts(groups, len(nodes), [places[node] for node in outputs])  # type: ignore[union-attr]


def _fill_constants(graph: Graph) -> None:
    """Let constants that have the shape of a value, such as the loss, depend on nothing."""
    for node in list(graph.nodes):
        if node.target not in _LIKE:
            continue
        value = node.meta["val"]
        with graph.inserting_before(node):
            full = graph.call_function(
                torch.ops.aten.full.default,
                (list(value.shape), _LIKE[node.target]),
                {"dtype": value.dtype, "device": value.device},
            )
        full.meta.update(node.meta)
        node.replace_all_uses_with(full)
        graph.erase_node(node)


def _module(own: Sequence[Node]) -> tuple[GraphModule, list[Node], list[Node]]:
    """Operations as a module, what they need, and what others need of them."""
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
