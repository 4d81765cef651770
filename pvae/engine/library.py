"""Compiled steps on disk: the shared library of a graph, called without the compiler."""

import contextlib
import hashlib
import importlib.util
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.machinery import ExtensionFileLoader
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from pvae._folders import cache_folder

__all__ = ["graph_key", "keep_library", "kept_library"]

Run = Callable[..., Sequence[Any]]

_ENTRY, _HANDLES = "inductor_entry_cpp", "unsafe_alloc_void_ptrs_from_tensors"
_MOST = 500  # libraries that are kept; those that were not used for longest are removed


def graph_key(graph: GraphModule, inputs: Sequence[Tensor]) -> str:
    """What decides the code that a graph is compiled to: operations, inputs, versions, processor.

    Args:
        graph: the operations.
        inputs: example inputs.
    """
    from torch._inductor import config

    described = [(tuple(t.shape), t.stride(), str(t.dtype), str(t.device)) for t in inputs]
    parts = [
        graph.code, described, torch.__version__, torch.version.git_version, sys.version,
        platform.platform(), sorted(torch.cpu.get_capabilities().items()), torch.get_num_threads(),
        torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled(),
        config.get_hash(),
    ]  # fmt: skip
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def kept_library(key: str) -> Run | None:
    """The compiled graph with this key; None if it is not on disk, damaged, or another user's.

    Args:
        key: from `graph_key`.
    """
    with contextlib.suppress(OSError, ImportError):
        for path in _folder().glob(f"{key}-*.so"):
            own = os.name != "posix" or path.stat().st_uid == os.getuid()  # it is executed
            if own and path.name == _name(key, path.read_bytes()):
                run = _loaded(key, path)
                os.utime(path)
                return run
    return None


def keep_library(key: str, run: Run, inputs: Sequence[Tensor], written: Sequence[int]) -> Run:
    """Keep the library that a compiled graph calls, if it calls one, with all inputs in order.

    Args:
        key: from `graph_key`.
        run: the compiled graph; it is executed twice, and the inputs that it changes are restored.
        inputs: example inputs.
        written: places of the inputs that it changes.

    Returns:
        What calls the library itself, with the same results; or else `run`.
    """
    found: list[Any] = []
    given: list[list[Tensor]] = []

    def spy(frame: FrameType, event: str, called: object) -> None:
        name = getattr(called, "__name__", "") if event == "c_call" else ""
        if name == _ENTRY:
            found.append(called)
        elif name == _HANDLES:
            given.append(list(frame.f_locals.get("input_tensors", ())))

    before = sys.getprofile()
    sys.setprofile(spy)
    try:
        expected = _outcome(run, inputs, written)
    finally:
        sys.setprofile(before)
    if len(found) != 1 or len(given) != 1 or not _same_memory(given[0], inputs):
        return run
    direct = _calling(found[0])
    got = _outcome(direct, inputs, written)
    if len(got) != len(expected) or not all(map(_equal, got, expected)):
        return run
    with contextlib.suppress(OSError):
        _write(key, Path(found[0].__self__.__file__).read_bytes())
    return direct


def _outcome(run: Run, inputs: Sequence[Tensor], written: Sequence[int]) -> list[Any]:
    """What a graph returns and writes; its inputs and the generator are as before."""
    state = torch.get_rng_state()
    kept = [inputs[place].clone() for place in written]
    with torch.no_grad():
        outputs = [x.clone() if isinstance(x, Tensor) else x for x in run(*inputs)]
        outputs += [inputs[place].clone() for place in written]
        for place, value in zip(written, kept, strict=True):
            inputs[place].copy_(value)
    torch.set_rng_state(state)
    return outputs


def _same_memory(some: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    def places(tensors: Sequence[Tensor]) -> list[object]:
        return [(t.data_ptr(), t.shape, t.stride()) for t in tensors]

    return places(some) == places(others)


def _equal(one: object, other: object) -> bool:
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return one is other
    if one.shape != other.shape or one.stride() != other.stride():
        return False
    return bool(((one == other) | (one.isnan() & other.isnan())).all())


def _calling(entry: Callable[[Any], Any]) -> Run:
    to_handles = torch._C._aoti.unsafe_alloc_void_ptrs_from_tensors
    to_tensors = torch._C._aoti.alloc_tensors_by_stealing_from_void_ptrs

    def run(*inputs: Tensor) -> Sequence[Tensor]:
        return to_tensors(entry(to_handles(list(inputs))))

    return run


def _loaded(key: str, path: Path) -> Run:
    guards: Any = torch._C._dynamo.guards
    address = guards._torchinductor_pyobject_tensor_data_ptr
    os.environ["_TORCHINDUCTOR_PYOBJECT_TENSOR_DATA_PTR"] = str(address)  # the library reads it
    name = f"{key}.{_ENTRY}"
    spec = importlib.util.spec_from_file_location(
        name, path, loader=ExtensionFileLoader(name, str(path))
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return _calling(getattr(module, _ENTRY))


def _folder() -> Path:
    return cache_folder() / "steps"


def _name(key: str, content: bytes) -> str:
    """The name of a library, with the checksum of its content."""
    return f"{key}-{hashlib.sha256(content).hexdigest()[:32]}.so"


def _write(key: str, content: bytes) -> None:
    folder = _folder()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _name(key, content)
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
        file.write(content)
    Path(file.name).replace(path)
    files = sorted(folder.iterdir(), key=lambda one: one.stat().st_mtime)
    for old in files[:-_MOST]:
        old.unlink(missing_ok=True)
