"""Compile a graph in parts: random operations in order, gradients of weights beside each other."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

from pvae.engine.draw_order import stages
from pvae.engine.streams import Fork
from pvae.engine.tails import segments, tails

__all__ = ["Parts", "compile_in_parts"]

Run = Callable[..., Sequence[Any]]

_aten = torch.ops.aten
_LIKE = {_aten.ones_like.default: 1, _aten.zeros_like.default: 0, _aten.empty_like.default: None}


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
    """A graph as parts.

    Attributes:
        chain: parts that are executed one after the other, each with parts that are executed
            beside whatever follows.
        size: number of places, of which the inputs of the graph are the first.
        outputs: places of the results of the graph.
        drawn: whether the first part draws all random numbers of the graph.
    """

    chain: Sequence[tuple[_Part, Sequence[_Part]]]
    size: int
    outputs: Sequence[int]
    drawn: bool = False

    def __call__(self, *inputs: Tensor) -> list[Any]:
        """Execute the graph."""
        return self.finish(self.begin(*inputs))

    def begin(self, *inputs: Tensor) -> list[Any]:
        """Draw the random numbers, if they are all drawn first; returns what `finish` needs."""
        values: list[Any] = [*inputs, *[None] * (self.size - len(inputs))]
        if self.drawn:
            self.chain[0][0](values)
        return values

    def draws_without(self, inputs: int) -> bool:
        """Whether `begin` draws all random numbers, and reads only the first few inputs."""
        return self.drawn and all(place < inputs for place in self.chain[0][0].given)

    def finish(self, values: list[Any]) -> list[Any]:
        """Execute the rest of the graph."""
        with Fork() as fork:
            for part, tails_of_it in self.chain[self.drawn :]:
                part(values)
                for tail in tails_of_it:
                    fork.start(partial(tail, values))
        return [values[place] for place in self.outputs]


def compile_in_parts(
    graph: Graph,
    inputs: Sequence[Tensor],
    compile_part: Callable[[GraphModule, Sequence[Any]], Run],
    *,
    early: bool = False,
) -> Parts:
    """Compile the parts of a graph that draw nothing, and execute the others as they are.

    A compiler may reorder random operations, since nothing in the graph ties them together, and
    each would then draw what another one drew when the graph was recorded. And it computes the
    gradients of weights one after the other, though each occupies a part of a GPU only.

    Args:
        graph: the operations, executed once; constants in it become independent of shapes.
        inputs: example inputs.
        compile_part: compiles a part of the graph for example inputs.
        early: whether the first gradients begin within the backward pass.
    """
    _detach_shapes(graph)
    ends = tails(graph)
    late = {node for tail in ends for node in tail}
    stage = {node: number for node, number in stages(graph).items() if node not in late}
    nodes = [node for node in graph.nodes if node.op in ("placeholder", "call_function")]
    places = {node: place for place, node in enumerate(nodes)}
    values: dict[Node, Any] = dict(zip(graph.find_nodes(op="placeholder"), inputs, strict=True))

    def part(own: list[Node], *, of_draws: bool = False) -> _Part:
        module, given, results = _module(sorted(own, key=places.__getitem__))
        arguments = [values[node] for node in given]
        run = module.forward if of_draws else compile_part(module, arguments)
        values.update(zip(results, run(*arguments), strict=True))
        return _Part(run, [places[n] for n in given], [places[n] for n in results])

    numbers = sorted(set(stage.values()))
    chain: list[tuple[_Part, Sequence[_Part]]] = []
    for number in numbers:
        own = [node for node in nodes if stage.get(node) == number]
        if number % 2 == 0:
            chain.append((part(own, of_draws=True), []))
            continue
        begin = ends if number == numbers[-1] else []
        for segment, then in segments(own, begin, early=early):
            chain.append((part(segment), [part(tail) for tail in then]))
    (outputs,) = graph.output_node().args
    return Parts(
        chain, len(nodes), [places[node] for node in outputs],  # type: ignore[union-attr]
        drawn=numbers[:1] == [0] and sum(number % 2 == 0 for number in numbers) == 1,
    )  # fmt: skip


def _detach_shapes(graph: Graph) -> None:
    """Let constants and memory that have the shape of a value, as the loss, depend on nothing."""
    for node in list(graph.nodes):
        if node.target not in _LIKE:
            continue
        value, constant = node.meta["val"], _LIKE[node.target]
        options = {"dtype": value.dtype, "device": value.device}
        with graph.inserting_before(node):
            if constant is None:
                given = list(value.shape), list(value.stride())
                new = graph.call_function(_aten.empty_strided.default, given, options)
            else:
                new = graph.call_function(
                    _aten.full.default, (list(value.shape), constant), options
                )
        new.meta.update(node.meta)
        node.replace_all_uses_with(new)
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
