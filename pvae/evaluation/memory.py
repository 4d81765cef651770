"""The memory of a computation: tensors that are alive at the same time."""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, UntypedStorage
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["allowed_bytes", "peak_bytes"]

_CPU, _ACCELERATOR, _OF_CUDA = 2**25, 2**30, 16


def allowed_bytes(max_bytes: int | None, device: torch.device) -> int:
    """Bytes that evaluation may use at once: the user's limit, or what is fast on a device.

    On a CPU that is the size of its caches: eight times as much took twice the time. On a CUDA
    device it is a part of its memory, whether that is free or not, so that blocks and their draws
    are the same each time; in large blocks, effect handlers run less often.
    """
    if max_bytes is not None:
        return max_bytes
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory) // _OF_CUDA
    return _CPU if device.type == "cpu" else _ACCELERATOR


def peak_bytes(compute: Callable[[], object]) -> int:
    """The largest total size in bytes of the tensors that a computation creates."""
    counted = _Counting()
    with counted:
        compute()
    return counted.peak


class _Counting(TorchDispatchMode):
    """Adds up the storages that operations return, until they are freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self.known: weakref.WeakSet[UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> object:
        given = {
            leaf.untyped_storage()._cdata
            for leaf in tree_leaves((args, kwargs))
            if isinstance(leaf, Tensor)
        }
        returned = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(returned):
            if not isinstance(leaf, Tensor):
                continue
            storage = leaf.untyped_storage()
            if storage in self.known or storage._cdata in given:
                continue
            self.known.add(storage)
            size = storage.nbytes()
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._freed, size)
        return returned

    def _freed(self, size: int) -> None:
        self.now -= size
