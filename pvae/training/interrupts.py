"""Interruption between two steps, where the state of a training is complete."""

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

__all__ = ["Interrupts"]


class Interrupts:
    """Makes the first Ctrl-C wait until `deliver`, while a second one interrupts at once.

    In the main thread it is a context manager around the handlers of SIGINT and, where the program
    has one, SIGTERM; elsewhere it does nothing.

    Example:
        >>> import os, signal
        >>> before = signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a terminal
        >>> with Interrupts() as interrupts:
        ...     os.kill(os.getpid(), signal.SIGINT)
        ...     print("the step ends")
        ...     try:
        ...         interrupts.deliver()
        ...     except KeyboardInterrupt:
        ...         print("interrupted")
        the step ends
        interrupted
        >>> _ = signal.signal(signal.SIGINT, before)
    """

    def __init__(self) -> None:
        self._before: dict[int, Callable[[int, FrameType | None], Any]] = {}
        self._came: int | None = None
        self._process = os.getpid()

    @property
    def due(self) -> bool:
        """Whether an interruption waits."""
        return self._came is not None

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                handler = signal.getsignal(number)
                if callable(handler):
                    self._before[number] = handler
                    signal.signal(number, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if kind is None:
            self.deliver()

    def deliver(self) -> None:
        """Call the handler of the signal that waits, if one does; it usually raises."""
        if self._came is not None:
            number, self._came = self._came, None
            self._before[number](number, None)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # Workers of a loader are copies of this process.
        if self._came is None and os.getpid() == self._process:
            self._came = number
        else:
            self._before[number](number, frame)
