"""Work that runs beside other work in a CUDA graph, on streams of its own."""

import functools
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

__all__ = ["aside", "beside", "capture_stream"]

T = TypeVar("T")
_MOST = 8  # streams beside the one of the capture


@functools.cache
def capture_stream(device: int) -> torch.cuda.Stream:
    """The stream of all captures on a device, whose workspaces libraries allocate once."""
    return torch.cuda.Stream(device)


@functools.cache
def _streams(device: int) -> list[torch.cuda.Stream]:
    return [torch.cuda.Stream(device) for _ in range(_MOST)]


def _in_capture() -> int | None:
    """The device whose capture stream is current; None on other streams and without CUDA."""
    if not torch.cuda.is_initialized():
        return None
    device = torch.cuda.current_device()
    return device if torch.cuda.current_stream() == capture_stream(device) else None


def beside(works: Sequence[Callable[[], T]]) -> list[T]:
    """Execute pieces of work that do not need each other's results; whatever follows needs all.

    They run beside each other if they are part of a CUDA graph, or are executed to prepare one.

    Args:
        works: each allocates its results, and frees nothing that another one allocated.
    """
    device = _in_capture()
    if device is None or len(works) < 2:
        return [work() for work in works]
    main, others = torch.cuda.current_stream(), _streams(device)[: len(works) - 1]
    for stream in others:
        stream.wait_stream(main)
    results = []
    for place, work in enumerate(works):
        if place % (len(others) + 1) == 0:
            results.append(work())
            continue
        with torch.cuda.stream(others[place % (len(others) + 1) - 1]):
            results.append(work())
    for stream in others:
        main.wait_stream(stream)
    return results


def aside(works: Sequence[Callable[[], T]]) -> list[Callable[[], T]]:
    """Execute pieces of work, one after another, beside whatever follows.

    Args:
        works: their results, and all that they allocate, must be kept until the graph is made.

    Returns:
        A function for each piece, which makes what follows wait for it, and returns its result.
        The first one must be called for the work to become part of a graph, and the last one, too.
    """
    device = _in_capture()
    if device is None:
        return list(works)
    main, own = torch.cuda.current_stream(), _aside_stream(device)
    own.wait_stream(main)
    waiting: list[Callable[[], T]] = []
    with torch.cuda.stream(own):
        for work in works:
            result, done = work(), torch.cuda.Event()
            done.record(own)
            waiting.append(functools.partial(_after, done, result, main))
    return waiting


@functools.cache
def _aside_stream(device: int) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def _after(done: torch.cuda.Event, result: T, stream: torch.cuda.Stream) -> T:
    stream.wait_event(done)
    return result
