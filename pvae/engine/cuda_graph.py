"""CUDA graphs of recorded steps: all kernels in one launch."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from pvae.engine.reads import CaptureError
from pvae.engine.recording import Recording
from pvae.engine.streams import capture_stream

__all__ = ["graph_of", "graph_recording"]

T = TypeVar("T")
_WARM = 3  # runs before a capture, in which libraries allocate their workspaces


def graph_of(
    work: Callable[[], T], *, warm: int = 0, generator: torch.Generator | None = None
) -> tuple[Callable[[], None], T]:
    """Capture the kernels that a function launches on its CUDA device, without executing them.

    Args:
        work: reads and writes tensors whose memory does not move.
        warm: how often it is executed before the capture.
        generator: one that it draws from, besides the device's own.

    Returns:
        A function that launches the work again, and what `work` returned: tensors that each launch
        overwrites.
    """
    stream = capture_stream(torch.cuda.current_device())
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(warm):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    generators = [torch.cuda.default_generators[torch.cuda.current_device()]]
    if generator is not None:
        graph.register_generator_state(generator)
        generators.append(generator)
    before = [one.clone_state() for one in generators]
    try:
        with torch.cuda.graph(graph, stream=stream):
            given = work()
    except BaseException:
        # A capture that fails leaves the generator's state in capture mode, for good.
        for one, state in zip(generators, before, strict=True):
            one.graphsafe_set_state(state)
        raise
    return graph.replay, given


def graph_recording(recording: Recording, tensors: Sequence[Tensor]) -> Recording:
    """Turn a recording into one CUDA graph; the step is executed a few times.

    Each replay overwrites the results of the one before.

    Args:
        recording: from `record` or `compile_recording`, on a CUDA device.
        tensors: example arguments of the step.

    Raises:
        CaptureError: if the step contains what a CUDA graph cannot, such as a copy from the host.
    """
    if recording.inside:
        raise CaptureError("shapes or branches depend on random draws")
    fixed = [tensor.detach().clone() for tensor in tensors]

    def work() -> Sequence[Tensor]:
        with torch.no_grad():
            return recording.run(*fixed, *recording.constants)

    try:
        launch, outputs = graph_of(work, warm=_WARM)
    except RuntimeError as error:
        lines = str(error).strip().splitlines()
        raise CaptureError(
            f"it cannot become a CUDA graph: {lines[0] if lines else error}"
        ) from error

    def run(*given: Tensor) -> Sequence[Tensor]:
        for place, tensor in zip(fixed, given, strict=False):  # constants are where they were
            place.copy_(tensor)
        launch()
        return outputs

    return dataclasses.replace(recording, run=run, how=f"{recording.how} as a CUDA graph")
