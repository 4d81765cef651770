"""Work that runs beside other work in a CUDA graph, on streams of its own."""

import functools
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

__all__ = ["Fork", "aside", "capture_stream"]

T = TypeVar("T")
_MOST = 12  # streams beside the one of the capture


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


class Fork:
    """Within the block, `start` executes work beside what follows; the end waits for all of it.

    So it is in a CUDA graph, or where one is prepared; elsewhere work is executed at once.
    """

    def __init__(self) -> None:
        self._device = _in_capture()
        self._used: list[torch.cuda.Stream] = []

    def start(self, work: Callable[[], object]) -> None:
        """Execute work that may need everything before it.

        Args:
            work: what it reads must be kept until the end of the block.
        """
        if self._device is None:
            work()
            return
        streams = _streams(self._device)
        stream = streams[len(self._used) % len(streams)]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            work()
        self._used.append(stream)

    def __enter__(self) -> "Fork":
        return self

    def __exit__(self, *error: object) -> None:
        for stream in dict.fromkeys(self._used):
            torch.cuda.current_stream().wait_stream(stream)


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
