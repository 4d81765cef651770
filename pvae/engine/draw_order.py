"""The random operations of a graph, and stages that keep them in the recorded order."""

import operator

import torch
from torch.fx import Graph, Node

__all__ = ["draws", "is_draw", "memory_of_draws", "stages"]

_EMPTY = (
    torch.ops.aten.empty.memory_format,
    torch.ops.aten.empty_strided.default,
    torch.ops.aten.empty_like.default,
)


def draws(graph: Graph) -> list[Node]:
    """The random operations, in the recorded order."""
    return [node for node in graph.nodes if is_draw(node)]


def stages(graph: Graph) -> dict[Node, int]:
    """The stage of each operation: even for draws, odd for what is computed.

    A draw comes after all draws that were recorded before it, and otherwise as early as its inputs
    allow: the noise of reparameterized sites is stage 0, and everything else is stage 1.
    """
    found: dict[Node, int] = {}
    latest, memory = 0, memory_of_draws(graph)
    for node in graph.nodes:
        if node.op != "call_function" or node in memory:
            continue
        before = [found[other] for other in node.all_input_nodes if other in found]
        if node.target is operator.getitem:  # one of several results
            found[node] = before[0]
        elif is_draw(node):
            latest = found[node] = max([latest, *(stage + stage % 2 for stage in before)])
            found.update({one: latest for one in node.all_input_nodes if one in memory})
        else:
            found[node] = max([1, *(stage + 1 - stage % 2 for stage in before)])
    return found


def is_draw(node: Node) -> bool:
    """Whether an operation draws random numbers."""
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def memory_of_draws(graph: Graph) -> set[Node]:
    """Operations that allocate memory for draws alone."""
    return {
        node
        for node in graph.nodes
        if node.target in _EMPTY and node.users and all(map(is_draw, node.users))
    }
