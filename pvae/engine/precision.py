"""Run networks in TF32 or bfloat16, and everything else in float32."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._pytree import tree_map_only

__all__ = ["PRECISIONS", "NetworkAutocast", "check_precision", "matmul_precision"]

PRECISIONS = ("float32", "tf32", "bfloat16")
_AMPERE = (8, 0)
# Multiplications of a product that takes as long in either precision: 128 rows, 784 to 100 units,
# take as long, and 784 to 400 units 0.8 of the time.
_SMALL = 2**24


def check_precision(precision: str, device: torch.device) -> None:
    """Check that a precision exists and that the device supports it.

    Raises:
        ValueError: if the precision is unknown, or the device lacks it.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision {precision!r}: give one of {list(PRECISIONS)}")
    if precision == "float32":
        return
    if device.type == "cuda":
        if torch.cuda.get_device_capability(device) < _AMPERE:
            name = torch.cuda.get_device_name(device)
            raise ValueError(f"{name} has no {precision}: use float32")
        return
    if precision == "tf32":
        raise ValueError(
            f"tf32 is a mode of CUDA devices, and the device is {device.type}: use float32"
        )
    able = torch.cpu.get_capabilities()
    if device.type == "cpu" and not any(able.get(k) for k in ("avx512_bf16", "amx_bf16", "bf16")):
        raise ValueError(
            "this CPU has no bfloat16 instructions and would be slower with it: use float32"
        )


@contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """Allow TF32 in products of float32 matrices within the block, if the precision is "tf32"."""
    if precision != "tf32":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


class NetworkAutocast(Messenger):
    """Runs networks in bfloat16 and converts their outputs back to float32.

    A network is an outermost module in whose call nothing is sampled, so that parameters of
    distributions, samples and log-probabilities stay in float32. So do small products on a CPU,
    whose conversions would take longer than bfloat16 saves.

    Attributes:
        known: whether `learn` has found the modules in whose calls something is sampled.
    """

    def __init__(self) -> None:
        super().__init__()
        self.known = False
        self._sampling: set[nn.Module] = set()  # modules in whose calls something is sampled
        self._calls: list[nn.Module] = []
        self._within: nn.Module | None = None
        self._cast: torch.autocast | None = None
        self._exact: tuple[nn.Module, torch.autocast] | None = None

    def learn(self, step: Callable[[], object]) -> None:
        """Find the modules in whose calls something is sampled.

        Args:
            step: runs the wrapped programs.
        """
        step()
        self.known = True

    def wrap(self, program: Callable[..., object]) -> Callable[..., object]:
        """The program with its networks in bfloat16."""

        def lowered(*args: object, **kwargs: object) -> object:
            enter, leave = (cast(Callable[..., None], hook) for hook in (self._enter, self._leave))
            entering = register_module_forward_pre_hook(enter)
            leaving = register_module_forward_hook(leave, always_call=True)
            try:
                with self:
                    return program(*args, **kwargs)
            finally:
                entering.remove()
                leaving.remove()
                self._calls.clear()
                self._close()

        return lowered

    def _enter(self, module: nn.Module, args: tuple[Any, ...]) -> object:
        self._calls.append(module)
        if not self.known or self._exact is not None or module in self._sampling:
            return None
        if self._within is None:
            tensors = [t for t in (*args, *module.parameters()) if isinstance(t, Tensor)]
            kind = tensors[0].device.type if tensors else "cpu"
            self._within, self._cast = module, torch.autocast(kind, torch.bfloat16)
            self._cast.__enter__()
        if not _is_small(module, args):
            return None
        self._exact = module, torch.autocast("cpu", enabled=False)
        self._exact[1].__enter__()
        return tree_map_only(Tensor, _float32, args)

    def _leave(self, module: nn.Module, args: object, output: object) -> object:
        self._calls.pop()
        if self._exact is not None and module is self._exact[0]:
            self._exact[1].__exit__(None, None, None)
            self._exact = None
        if module is not self._within or module in self._calls:
            return output
        self._close()
        return tree_map_only(Tensor, _float32, output)

    def _close(self) -> None:
        if self._exact is not None:
            self._exact[1].__exit__(None, None, None)
        self._exact = None
        if self._cast is not None:
            self._cast.__exit__(None, None, None)
        self._within = self._cast = None

    def _pyro_sample(self, msg: Any) -> None:
        if site_is_subsample(msg):
            return
        if self._within is not None:
            raise ValueError(
                f"site {msg['name']!r} is sampled inside {type(self._within).__name__}, which "
                "sampled nothing in the first step and runs in bfloat16: sample outside of it, or "
                'use precision="float32"'
            )
        self._sampling.update(self._calls)


def _is_small(module: nn.Module, args: tuple[Any, ...]) -> bool:
    """Whether a module computes one product of matrices, or one per step, and these are small."""
    x = args[0] if args else None
    if not isinstance(x, Tensor) or x.device.type != "cpu":
        return False
    if isinstance(module, nn.Linear):
        rows = x.numel() // max(1, x.shape[-1])
    elif isinstance(module, nn.RNNBase):
        rows = x.shape[0 if module.batch_first else 1] if x.dim() == 3 else 1
    else:
        return False
    weights = sum(p.numel() for p in module.parameters(recurse=False) if p.dim() == 2)
    return rows * weights < _SMALL


def _float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype is torch.bfloat16 else tensor
