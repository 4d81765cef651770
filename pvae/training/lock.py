"""A lock on a file, which ends with its process."""

import errno
import os
from pathlib import Path

try:
    import fcntl
except ImportError:  # no such locks on this system
    fcntl = None  # type: ignore[assignment]

__all__ = ["Lock"]

_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_taken: set[str] = set()  # by this process, for which the system's lock is no obstacle


class Lock:
    """One training at a time for each run folder.

    Args:
        path: the file to lock; made if there is none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._name = ""
        self._handle: int | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            ValueError: if another training has it.
        """
        name = str(self.path.resolve())
        refused = ValueError(
            f"{self.path.parent} is being trained by another process: wait for its end, or choose "
            "another folder"
        )
        if name in _taken:
            raise refused
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | _NO_LINK, 0o666)
        try:
            if fcntl is not None:
                fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            raise refused from error
        _taken.add(name)
        self._name, self._handle = name, handle

    def release(self) -> None:
        """Let the lock go, if it is held."""
        if self._handle is not None:
            os.close(self._handle)
            _taken.discard(self._name)
            self._handle = None
