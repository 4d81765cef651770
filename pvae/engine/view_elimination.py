"""Remove redundant views from a recorded graph."""

import torch
from torch.fx import Graph, Node

__all__ = ["eliminate_views"]

_aten = torch.ops.aten
_T, _DETACH = _aten.t.default, _aten.detach.default
_EXPAND = _aten.expand.default
# These keep the order of the elements.
_RESHAPES = (_aten.view.default, _aten.squeeze.dim, _aten.unsqueeze.default)


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
        if node.target is _DETACH or (node.target is _EXPAND and _shape(node) == _shape(source)):
            same = source
        elif node.target in _RESHAPES:
            same = _of_same_shape(node)
        elif node.target is _T:
            first = source.args[0] if source.target is _T else transposed.get(source)
            same = first if isinstance(first, Node) else None
            transposed.setdefault(source, node)
        if same is not None:
            node.replace_all_uses_with(same)
            graph.erase_node(node)


def _of_same_shape(node: Node) -> Node | None:
    """What a node is a reshaped view of, through others, and has the shape of."""
    source = node
    while source.target in _RESHAPES and isinstance(source.args[0], Node):
        source = source.args[0]
        if _shape(source) == _shape(node):
            return source
    return None


def _shape(node: Node) -> object:
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, torch.Tensor) else node
