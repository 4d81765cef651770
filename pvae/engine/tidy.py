"""A recorded graph without operations that only give a value another name."""

import torch
from torch.fx import Graph, Node

__all__ = ["tidy"]

_aten = torch.ops.aten
_T, _DETACH = _aten.t.default, _aten.detach.default
_RESHAPE = (_aten.view.default, _aten.expand.default)


def tidy(graph: Graph) -> None:
    """Remove, in place, views that are their input, or that there are already.

    A replay runs operation by operation, and each costs more than its arithmetic where networks are
    small. All that is removed shares memory with what takes its place, so that also operations in
    place do what they did.
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
