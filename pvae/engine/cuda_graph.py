"""Work on a CUDA device, launched at once: CUDA graphs of a recorded step."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from pvae.engine.recording import CaptureError, Recording

__all__ = ["graph_of", "graphed", "on_cuda"]

T = TypeVar("T")
_WARM = 3  # runs before a capture, in which libraries allocate what they need


def on_cuda(tensors: Iterable[Tensor]) -> bool:
    """Whether any of the tensors is on a CUDA device."""
    return any(tensor.is_cuda for tensor in tensors)


def graph_of(work: Callable[[], T], *, warm: int = 0) -> tuple[Callable[[], None], T]:
    """Capture what a function launches on its CUDA device; nothing is carried out by that.

    Args:
        work: reads and writes tensors that stay where they are.
        warm: how often it is really run before.

    Returns:
        What launches the work again, and what the function returned: tensors which each launch
        writes anew.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(warm):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        given = work()
    return graph.replay, given


def graphed(recording: Recording, tensors: Sequence[Tensor]) -> Recording:
    """The same recording as one CUDA graph; the step is run for real a few times.

    Its results are in the same memory each time: they hold until the next replay.

    Args:
        recording: what `record` or `compiled` returned, on a CUDA device.
        tensors: the step's tensors, as an example.

    Raises:
        CaptureError: the step does what a CUDA graph cannot, such as copying from the host.
    """
    fixed = [tensor.detach().clone() for tensor in tensors]

    def work() -> Sequence[Tensor]:
        with torch.no_grad():
            return recording.run(*fixed, *recording.constants)

    try:
        launch, outputs = graph_of(work, warm=_WARM)
    except RuntimeError as error:
        lines = str(error).strip().splitlines()
        raise CaptureError(f"it is no CUDA graph: {lines[0] if lines else error}") from error

    def run(*given: Tensor) -> Sequence[Tensor]:
        for place, tensor in zip(fixed, given, strict=False):  # constants are where they were
            place.copy_(tensor)
        launch()
        return outputs

    return dataclasses.replace(recording, run=run, how=f"{recording.how} as a CUDA graph")
