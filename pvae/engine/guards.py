"""Guards: values that a recorded step read, and which must be the same in a replay."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node
from torch.fx.node import has_side_effect

__all__ = ["GuardError", "Guards", "Read", "guard", "has_checks", "written_inputs"]


# Their schemas do not say that they change the running mean and variance.
_BATCH_NORMS = {f"aten::{kind}_batch_norm" for kind in ("native", "cudnn", "miopen")}


class GuardError(Exception):
    """A replay reads another value than its recording."""


@dataclass(frozen=True)
class Read:
    """A value that a step read while it was recorded.

    Attributes:
        how: the method of `Tensor` that read it, such as "item".
        value: what it returned.
        where: file and line of the program.
    """

    how: str
    value: object
    where: str = ""


@dataclass(frozen=True)
class Guards:
    """The reads of a recording that need no random numbers, which come before its replay.

    Attributes:
        run: from the step's tensors and the recording's constants to the tensors that are read.
        reads: what the recorded step read of them.
    """

    run: Callable[..., Sequence[Tensor]]
    reads: tuple[Read, ...]

    def hold(self, inputs: Sequence[Tensor]) -> bool:
        """Whether the same values would be read; not if they cannot be computed."""
        try:
            with torch.no_grad():
                return all(map(_agrees, self.run(*inputs), self.reads))
        except Exception:  # noqa: BLE001 (a replay never raises)
            return False


def guard(graph: Graph, reads: Sequence[Read]) -> tuple[Graph, tuple[Read, ...]] | None:
    """Make a graph check what was read when it was recorded, and the shapes that depend on values.

    What needs neither random numbers nor values that the graph changes can be checked before a
    replay. The graph itself checks everything else, and raises `GuardError`.

    Args:
        graph: the recorded operations, in place. Its last outputs, which are removed, are the
            tensors that were read.
        reads: what was read of each.

    Returns:
        The graph from the inputs to the tensors that can be checked before a replay, and what was
        read of them; None if there are none.
    """
    output = graph.output_node()
    results = list(output.args[0])  # type: ignore[arg-type]
    first = len(results) - len(reads)
    written = {list(graph.find_nodes(op="placeholder"))[i] for i in written_inputs(graph)}
    early = []
    for node, read in zip(results[first:], reads, strict=True):
        needed = _ancestors(node)
        if written & needed or any(map(_is_impure, needed)):
            with graph.inserting_after(node):
                graph.call_function(_check_value, (node, read.how, read.value))  # type: ignore[arg-type]
        else:
            early.append((node, read))
    for node in list(graph.nodes):
        if _has_unknown_shape(node):
            with graph.inserting_after(node):
                graph.call_function(_check_shape, (node, tuple(node.meta["val"].shape)))
    guards = None
    if early:
        own, copies = Graph(), dict[Node, Node]()
        needed = set().union(*(_ancestors(node) for node, _ in early))
        for node in graph.nodes:
            if node in needed or node.op == "placeholder":
                copies[node] = own.node_copy(node, copies.__getitem__)
        own.output(tuple(copies[node] for node, _ in early))
        guards = own, tuple(read for _, read in early)
    output.args = (tuple(results[:first]),)
    return guards


def has_checks(graph: Graph) -> bool:
    """Whether the graph itself checks values or shapes."""
    return any(node.target in (_check_value, _check_shape) for node in graph.nodes)


def written_inputs(graph: Graph) -> list[int]:
    """Indices of the inputs that operations of the graph change in place."""
    written = set()
    for root in [argument for node in graph.nodes for argument in _written_arguments(node)]:
        while root.op != "placeholder" and root.all_input_nodes:
            root = root.all_input_nodes[0]  # what it is a view of
        written.add(root)
    inputs = graph.find_nodes(op="placeholder")
    return [index for index, node in enumerate(inputs) if node in written]


@has_side_effect
def _check_value(tensor: Tensor, how: str, value: object) -> None:
    if not _agrees(tensor, Read(how, value)):
        raise GuardError


@has_side_effect
def _check_shape(tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tensor.shape != shape:
        raise GuardError


def _agrees(tensor: Tensor, read: Read) -> bool:
    value = getattr(tensor, read.how)()
    return bool(value == read.value)


def _ancestors(node: Node) -> set[Node]:
    found, pending = set(), [node]
    while pending:
        one = pending.pop()
        if one not in found:
            found.add(one)
            pending += one.all_input_nodes
    return found


def _written_arguments(node: Node) -> list[Node]:
    """The arguments that an operation changes in place."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return []
    if schema.name in _BATCH_NORMS:
        return [value for value in node.args[3:5] if isinstance(value, Node)]
    given = dict(zip([a.name for a in schema.arguments], node.args, strict=False)) | node.kwargs
    changed = [
        given.get(a.name) for a in schema.arguments if a.alias_info and a.alias_info.is_write
    ]
    return [value for value in changed if isinstance(value, Node)]


def _is_impure(node: Node) -> bool:
    tags: Sequence[Any] = getattr(node.target, "tags", ())
    return torch.Tag.nondeterministic_seeded in tags or bool(_written_arguments(node))


def _has_unknown_shape(node: Node) -> bool:
    tags: Sequence[Any] = getattr(node.target, "tags", ())
    if torch.Tag.dynamic_output_shape not in tags:
        return False
    if node.target is torch.ops.aten.index.Tensor:
        kinds = [i.meta["val"].dtype for i in node.args[1] if isinstance(i, Node)]  # type: ignore[union-attr]
        return torch.bool in kinds or torch.uint8 in kinds
    return True
