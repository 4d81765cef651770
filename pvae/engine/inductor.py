"""Compile a recorded step with Inductor."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from pvae.engine.library import graph_key, keep_library, kept_library
from pvae.engine.onednn import register_lowering_of_onednn
from pvae.engine.parts import compile_in_parts
from pvae.engine.products import Tile, chosen_products, wanted_tile
from pvae.engine.reads import CaptureError
from pvae.engine.recording import Recording, on_cuda
from pvae.pair.preserve import preserve_generators

__all__ = ["MAX_NODES", "compile_recording"]

# Compilation takes about 20 ms per operation. A graph with more operations, such as an unrolled
# model, would compile for minutes and is replayed without compilation.
MAX_NODES = 5000


def _has_cpp_calls(graph: Graph) -> bool:
    """Whether Inductor's wrapper in C++ calls all operations of a graph itself.

    It calls others, such as triangular solves, through an executor that has corrupted the heap.
    """
    from torch._inductor.decomposition import select_decomp_table
    from torch._inductor.lowering import fallbacks, lowerings
    from torchgen.aoti.fallback_ops import inductor_fallback_ops  # type: ignore[import-untyped]

    called = {node.target for node in graph.nodes if node.op == "call_function"}
    called = {target for target in called if isinstance(target, torch._ops.OpOverload)}
    called = {target for target in called if not target._schema.is_mutable}  # made functional
    direct = {target for target in called if target in lowerings and target not in fallbacks}
    rest = called - direct - set(select_decomp_table())
    return all(
        target.namespace != "aten" or str(target) in inductor_fallback_ops for target in rest
    )


def _compiled(recording: Recording, inputs: Sequence[Any]) -> Any:
    """The compiled graph; on a CPU, from disk if it was compiled before."""
    cuda = on_cuda(inputs)
    key = "" if cuda else graph_key(recording.graph, inputs)
    run: Any = None if cuda else kept_library(key)
    if run is not None:
        return run
    register_lowering_of_onednn()
    flat = make_fx(lambda *given: recording.graph(*given))(*inputs)
    if cuda:  # one launch executes all parts; on a CPU, each would be called from Python
        tile = wanted_tile()
        compile_part = partial(_compile, tile=tile)
        return compile_in_parts(flat.graph, inputs, compile_part, early=tile is not None)
    return keep_library(key, _compile(flat, inputs), inputs, recording.written)


def _compile(flat: GraphModule, inputs: Sequence[Any], tile: Tile | None = None) -> Any:
    import torch._inductor as inductor
    from torch._inductor import config

    # Inductor's own generator would draw other numbers than eager; and a wrapper in C++ calls the
    # kernels of a small step in less time than one in Python.
    in_cpp = not on_cuda(inputs) and _has_cpp_calls(flat.graph)
    options = {"fallback_random": True, "cpp_wrapper": in_cpp}
    with config.patch(options), chosen_products(tile):
        return inductor.standalone_compile(flat, list(inputs), dynamic_shapes="from_example_inputs")


def _in_layout_of(params: Sequence[Tensor], run: Any, outputs: Sequence[Tensor]) -> Any:
    """What returns each gradient in the memory layout of its parameter, as a backward pass does.

    Fused optimizers read both element by element, in the order of their memory.
    """
    gradients = outputs[len(outputs) - len(params) :]
    if all(p.stride() == g.stride() for p, g in zip(params, gradients, strict=True)):
        return run

    def in_layout(*given: Any) -> list[Tensor]:
        losses_and_gradients = list(run(*given))
        for place, parameter in enumerate(params, len(outputs) - len(params)):
            gradient = losses_and_gradients[place]
            if gradient.stride() != parameter.stride():
                losses_and_gradients[place] = torch.empty_like(parameter).copy_(gradient)
        return losses_and_gradients

    return in_layout


def compile_recording(recording: Recording, tensors: Sequence[Tensor]) -> Recording:
    """Compile a recording with Inductor; the step is executed twice.

    Args:
        recording: from `record`.
        tensors: example arguments of the step.

    Raises:
        CaptureError: if the graph is too large, branches on random draws, or does not compile.
    """
    if recording.inside:
        raise CaptureError("shapes or branches depend on random draws")
    nodes = len(recording.graph.graph.nodes)
    if nodes > MAX_NODES:
        raise CaptureError(f"its {nodes} operations would take minutes to compile")
    # Detached: nothing here is differentiated again.
    inputs: list[Any] = [tensor.detach() for tensor in (*tensors, *recording.constants)]
    try:
        with torch.no_grad(), preserve_generators():
            run = _compiled(recording, inputs)
            run = _in_layout_of(recording.trained, run, run(*inputs))
    except (RuntimeError, ImportError, OSError, AssertionError, AttributeError) as error:
        lines = str(error).strip().splitlines()
        summary = f"{type(error).__name__}: {lines[0] if lines else ''}"
        raise CaptureError(f"it does not compile: {summary}") from error
    constants = tuple(inputs[len(tensors) :])
    return dataclasses.replace(recording, run=run, constants=constants, how="compiled")
