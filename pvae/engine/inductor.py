"""A recorded step, compiled."""

import dataclasses
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from pvae.engine.onednn import called_directly
from pvae.engine.recording import CaptureError, Recording
from pvae.pair.preserve import preserved

__all__ = ["MOST_NODES", "compiled"]

# Compiling takes some 20 ms an operation: an unrolled model of more than so many would compile for
# minutes, and is replayed as it is.
MOST_NODES = 5000


def compiled(recording: Recording, tensors: Sequence[Tensor]) -> Recording:
    """The same recording, compiled by Inductor; the step is run once for real.

    Args:
        recording: what `record` returned.
        tensors: the step's tensors, as an example.

    Raises:
        CaptureError: the graph is too large to be worth compiling, or does not compile.
    """
    nodes = len(recording.graph.graph.nodes)
    if nodes > MOST_NODES:
        raise CaptureError(f"its {nodes} operations would take minutes to compile")
    # Values alone: nothing here is to be differentiated again.
    inputs: list[Any] = [tensor.detach() for tensor in (*tensors, *recording.constants)]
    try:
        import torch._inductor as inductor
        from torch._inductor import config

        called_directly()

        # Inductor's own generator would draw other numbers than eager; and a wrapper in C++ calls
        # the kernels of a small step in less time than one in Python.
        settings = {"fallback_random": True, "cpp_wrapper": inputs[0].device.type == "cpu"}
        with torch.no_grad(), config.patch(settings), preserved():
            flat = make_fx(lambda *given: recording.graph(*given))(*inputs)
            run = inductor.standalone_compile(flat, inputs, dynamic_shapes="from_example_inputs")
    except (RuntimeError, ImportError, OSError, AssertionError, AttributeError) as error:
        lines = str(error).strip().splitlines()
        summary = f"{type(error).__name__}: {lines[0] if lines else ''}"
        raise CaptureError(f"it does not compile: {summary}") from error
    constants = tuple(inputs[len(tensors) :])
    return dataclasses.replace(recording, run=cast(Any, run), constants=constants, how="compiled")
