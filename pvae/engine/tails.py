"""The ends of a recorded step: what nothing but its results needs, such as gradients of weights."""

import operator
from collections.abc import Iterable
from itertools import pairwise

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
_MOST, _BESIDE = 8, 4  # segments, and products beside each other, each compiled by itself


def tails(graph: Graph) -> list[list[Node]]:
    """Operations that no product and no draw depends on, in groups that do not need each other.

    Each group has one product, or a few that belong together; everything else is in further groups.
    There are none in a graph with fewer than two such products.

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
    return groups if sum(map(_has_product, groups)) > 1 else []


def segments(
    nodes: list[Node], ends: list[list[Node]]
) -> list[tuple[list[Node], list[list[Node]]]]:
    """Operations in consecutive segments, each as short as the tails that begin after it allow.

    Args:
        nodes: those that are in no tail, in their order.
        ends: the tails.

    Returns:
        Segments, with the tails that need nothing of later ones; those without a product are one.
    """
    place = {node: number for number, node in enumerate(nodes)}
    needed = [{n for node in tail for n in node.all_input_nodes if n in place} for tail in ends]
    last = [max(map(place.__getitem__, some), default=-1) for some in needed]
    bounds = sorted({end for end, tail in zip(last, ends, strict=True) if _has_product(tail)})
    if bounds:
        bounds[-1] = max(last)
    left, found = set(nodes), []
    for before, bound in pairwise([-2, *bounds[-_MOST:]]):
        chosen = [number for number, end in enumerate(last) if before < end <= bound]
        own = _ancestors([node for number in chosen for node in needed[number]], left)
        # What is chosen of several results stays with the operation.
        own |= {n for n in left if n.target is operator.getitem and n.all_input_nodes[0] in own}
        left -= own
        found.append(
            ([node for node in nodes if node in own], _merged([ends[number] for number in chosen]))
        )
    if left:
        found.append(([node for node in nodes if node in left], []))
    return found


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
    """Groups with a product as a few, and all others as one."""
    small = [group for group in groups if not _has_product(group)]
    large = [group for group in groups if _has_product(group)]
    chosen = [small, *(large[place::_BESIDE] for place in range(_BESIDE))]
    return [[node for group in some for node in group] for some in chosen[::-1] if some]


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
