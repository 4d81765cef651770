"""Remove redundant views from a recorded graph."""

import torch
from torch.fx import Graph, Node

__all__ = ["eliminate_views"]

_aten = torch.ops.aten
_T, _DETACH = _aten.t.default, _aten.detach.default
_RESHAPE = (_aten.view.default, _aten.expand.default)


def eliminate_views(graph: Graph) -> None:
    """Remove, in place, views that equal their input or another view.

    A replay executes operation by operation, and with small networks the overhead of each exceeds
    its arithmetic. Each removed view shares memory with its replacement, so that in-place
    operations keep their effect.
    """
    transposed: dict[Node, Node] = {}
    for node in list(graph.nodes):
        if node.op != "call_function" or node.kwargs:
            continue
        same: Node | None = None
        source = node.args[0] if node.args else None
        if not isinstance(source, Node):
            continue
        if node.target is _DETACH or (node.target in _RESHAPE and _shape(node) == _shape(source)):
            same = source
        elif node.target is _T:
            first = source.args[0] if source.target is _T else transposed.get(source)
            same = first if isinstance(first, Node) else None
            transposed.setdefault(source, node)
        if same is not None:
            node.replace_all_uses_with(same)
            graph.erase_node(node)


def _shape(node: Node) -> object:
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, torch.Tensor) else node
