"""The ends of a recorded step: what nothing but its results needs, such as gradients of weights."""

import operator
from collections.abc import Iterable

import torch
from torch.fx import Graph, Node

from pvae.engine.draw_order import is_draw, memory_of_draws
from pvae.engine.guards import written_inputs

__all__ = ["segments", "tails"]

_aten = torch.ops.aten
_PRODUCTS = {
    _aten.mm.default,
    _aten.addmm.default,
    _aten.bmm.default,
    _aten.baddbmm.default,
    _aten.convolution.default,
    _aten.convolution_backward.default,
}
_MOST = 8  # groups with products, each of which is compiled by itself


def tails(graph: Graph) -> list[list[Node]]:
    """Operations that no product and no draw depends on, in groups that do not need each other.

    Products are in groups of their own, up to a number of them, and everything else is in the first
    group. There are none in a graph with fewer than two such products.

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
    inside = set(last)  # what is chosen of several results stays with the operation
    last = [n for n in last if n.target is not operator.getitem or n.all_input_nodes[0] in inside]
    groups = _connected(last[::-1])
    return _merged(groups) if sum(map(_has_product, groups)) > 1 else []


def segments(
    nodes: list[Node], ends: list[list[Node]], *, early: bool
) -> list[tuple[list[Node], list[list[Node]]]]:
    """Operations in consecutive segments, each with the tails that begin after it.

    Args:
        nodes: those that are in no tail, in their order.
        ends: the tails.
        early: whether there are two segments, of which the first one ends where a product of a
            tail has what it needs: in the backward pass of the last layer. What the loss needs is
            then known, too.
    """
    place = {node: number for number, node in enumerate(nodes)}
    needed = [{n for node in tail for n in node.all_input_nodes if n in place} for tail in ends]
    last = [max(map(place.__getitem__, some), default=-1) for some in needed]
    bounds = sorted({end for end, tail in zip(last, ends, strict=True) if _has_product(tail)})
    if not early or not bounds:
        return [(nodes, ends)]
    first = [number for number, end in enumerate(last) if end <= bounds[0]]
    own = _ancestors([node for number in first for node in needed[number]], set(nodes))
    # What is chosen of several results stays with the operation.
    own |= {n for n in nodes if n.target is operator.getitem and n.all_input_nodes[0] in own}
    return [
        ([node for node in nodes if node in own], [ends[number] for number in first]),
        (
            [node for node in nodes if node not in own],
            [tail for number, tail in enumerate(ends) if number not in first],
        ),
    ]


def _ancestors(nodes: Iterable[Node], within: set[Node]) -> set[Node]:
    """These nodes and what they need, directly or not, of some nodes."""
    found: set[Node] = set()
    pending = [node for node in nodes if node in within]
    while pending:
        node = pending.pop()
        if node not in found:
            found.add(node)
            pending += [other for other in node.all_input_nodes if other in within]
    return found


def _merged(groups: list[list[Node]]) -> list[list[Node]]:
    """A few groups with products, and small ones whose inputs they read; the rest as one group."""
    large = [list(group) for group in groups if _has_product(group)]
    reads = [_reads(group) for group in large]
    rest: list[Node] = []
    for group in groups:
        if not _has_product(group):
            own = _reads(group)
            into = next((one for one, read in zip(large, reads, strict=True) if own <= read), rest)
            into += group
    chosen = [rest, *([n for g in large[place::_MOST] for n in g] for place in range(_MOST))]
    return [some for some in chosen if some]


def _reads(group: list[Node]) -> set[Node]:
    """What a group reads of other operations, itself or as views."""
    inside = set(group)
    outer = (n for node in group for n in node.all_input_nodes if n not in inside)
    return {n for n in map(_viewed, outer) if n.op == "call_function"}


def _has_product(group: list[Node]) -> bool:
    return any(node.target in _PRODUCTS for node in group)


def _connected(nodes: list[Node]) -> list[list[Node]]:
    """Nodes in groups that do not need each other's results."""
    parent: dict[Node, Node] = {}

    def group(node: Node) -> Node:
        while parent.setdefault(node, node) is not node:
            node = parent[node]
        return node

    inside = set(nodes)
    for node in nodes:
        for other in node.all_input_nodes:
            if other in inside:
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
