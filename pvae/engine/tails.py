"""The ends of a recorded step: what nothing but its results needs, such as gradients of weights."""

import operator

import torch
from torch.fx import Graph, Node

from pvae.engine.draw_order import is_draw, memory_of_draws
from pvae.engine.guards import written_inputs

__all__ = ["tails"]

_aten = torch.ops.aten
_PRODUCTS = {
    _aten.mm.default,
    _aten.addmm.default,
    _aten.bmm.default,
    _aten.baddbmm.default,
    _aten.convolution.default,
    _aten.convolution_backward.default,
}


def tails(graph: Graph) -> list[list[Node]]:
    """Operations that no product and no draw depends on, in groups that do not need each other.

    Operations that share what they read are in one group, as a weight's gradient and its bias's
    are. There are none without a product, nor where one group would hold all of them.

    Args:
        graph: the operations of a step.
    """
    inputs = list(graph.find_nodes(op="placeholder"))
    written = {inputs[place] for place in written_inputs(graph)}
    memory = memory_of_draws(graph)
    needed: set[Node] = set()  # by a product, a draw, or what reads or writes a changing input
    last: list[Node] = []
    for node in reversed(graph.nodes):
        if node.op != "call_function" or node in memory:
            continue
        fixed = node in needed or is_draw(node) or not written.isdisjoint(_roots(node))
        if not fixed:
            last.append(node)
        if fixed:
            needed.update(node.all_input_nodes)
        elif node.target in _PRODUCTS:
            needed.update(map(_viewed, node.all_input_nodes))
    groups = _connected(last[::-1])
    products = sum(any(node.target in _PRODUCTS for node in group) for group in groups)
    return groups if products > 1 else []


def _connected(nodes: list[Node]) -> list[list[Node]]:
    """Nodes in groups that share neither results nor what they read of other operations."""
    parent: dict[Node, Node] = {}

    def group(node: Node) -> Node:
        while parent.setdefault(node, node) is not node:
            node = parent[node]
        return node

    for node in nodes:
        for other in node.all_input_nodes:
            if other.op == "call_function":
                parent[group(other)] = group(node)
    found: dict[Node, list[Node]] = {}
    for node in nodes:
        found.setdefault(group(node), []).append(node)
    return list(found.values())


def _roots(node: Node) -> set[Node]:
    """The inputs of the graph that an operation reads, themselves or as views."""
    return {one for one in map(_viewed, node.all_input_nodes) if one.op == "placeholder"}


def _viewed(node: Node) -> Node:
    """What an operation is a view of; the operation itself if it is none."""
    while _is_view(node):
        node = node.all_input_nodes[0]
    return node


def _is_view(node: Node) -> bool:
    if node.target is operator.getitem:
        return True
    schema = getattr(node.target, "_schema", None)
    return schema is not None and any(r.alias_info is not None for r in schema.returns)
