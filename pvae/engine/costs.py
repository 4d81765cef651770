"""What a step and its compilation cost, by counting: the same number on every machine."""

import math
from contextlib import suppress
from typing import Any

import torch
from torch.fx import Graph, Node
from torch.utils._pytree import tree_map

__all__ = ["products", "steps_for_compilation"]

# Seconds on one core of a server. A compiled step saves a part of its time only, but the next start
# finds it on disk.
_STEP, _PRODUCT = 5e-6, 1e-11  # for an operation, and for each multiplication and addition of it
_COMPILATION, _COMPILED = 5.0, 0.02  # for a graph, and for each operation of it


def steps_for_compilation(graph: Graph) -> int:
    """The number of steps that take about as long as the compilation of their graph.

    A training that compiles after so many steps takes at most about twice the time of one that
    does what is better for its length.

    Args:
        graph: the recorded operations of a step.
    """
    operations = max(1, len(_calls(graph)))
    step = _STEP * operations + _PRODUCT * products(graph)
    return math.ceil((_COMPILATION + _COMPILED * operations) / step)


def products(graph: Graph) -> int:
    """Multiplications and additions in the matrix products and convolutions of a graph."""
    from torch.utils.flop_counter import flop_registry

    def count(node: Node) -> int:
        if not isinstance(node.target, torch._ops.OpOverload):
            return 0
        formula = flop_registry.get(node.target.overloadpacket)
        if formula is not None:
            args, kwargs = tree_map(_value, (node.args, node.kwargs))
            return int(formula(*args, **kwargs, out_val=_value(node)))
        if node.target.namespace == "pvae":
            a, b, *_ = map(_value, node.args)
            return int(2 * math.prod((*a.shape, b.shape[1])))
        return 0

    total = 0
    for node in _calls(graph):
        with suppress(Exception):  # an estimate: what torch's formulas cannot count counts nothing
            total += count(node)
    return total


def _calls(graph: Graph) -> list[Node]:
    return [node for node in graph.nodes if node.op == "call_function"]


def _value(argument: object) -> Any:
    return argument.meta.get("val") if isinstance(argument, Node) else argument
