"""Compare a replayed step with Pyro's own step under the same random numbers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import pyro
import torch
from torch import Tensor, nn

from pvae.engine.guards import GuardError
from pvae.engine.recording import Recording, summary
from pvae.engine.step import eager_step
from pvae.pair.preserve import preserve_state, preserve_tensors

__all__ = ["aliased", "difference"]

_LOSS, _GRADIENT, _NOISE = 1e-4, 1e-3, 1e-5  # relative differences that rounding can cause
# A gradient may differ by this many times what one rounding of each parameter changes in it.
_ROUNDINGS = 16.0
_COARSE = 100.0  # factor under reduced precision


def difference(
    recording: Recording,
    tensors: Sequence[Tensor],
    loss_and_grads: Callable[..., object],
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
    networks: Sequence[nn.Module],
    *,
    coarse: bool = False,
) -> str | None:
    """Say what differs beyond rounding between a replay and a step of Pyro's; None if nothing.

    Generators, buffers and gradients are preserved.

    Args:
        recording: the recording to replay.
        tensors: those among the arguments.
        loss_and_grads: the objective's `loss_and_grads` for the pair.
        args: positional arguments of the programs.
        kwargs: keyword arguments of the programs.
        networks: those of the pair, whose buffers are compared, too.
        coarse: whether matrix products have less precision than float32.
    """
    factor = _COARSE if coarse else 1.0
    with preserve_state(networks):
        try:
            got = recording(tensors)
        except GuardError:
            raise
        except Exception as error:  # noqa: BLE001 (a replay never raises)
            return f"the error {summary(error)!r}"
        buffers = _buffers(networks)
    with preserve_state(networks):
        wanted = eager_step(loss_and_grads, args, kwargs, others=got.params, validate=False)
        wanted_buffers = _buffers(networks)
    for one, other in zip(got.losses, wanted.losses, strict=True):
        one = cast(Tensor, one)
        other = torch.as_tensor(cast(Any, other), device=one.device, dtype=one.dtype)
        if not _near(one, other, _LOSS * factor, 0.0):
            return "the loss"
    if {id(p) for p in wanted.params} != {id(p) for p in got.params}:
        return "the set of parameters"
    names = {id(p): name for name, p in pyro.get_param_store()._params.items()}
    gradients = {id(p): g for p, g in zip(got.trained, got.gradients, strict=True)}
    wanted_gradients = {id(p): g for p, g in zip(wanted.trained, wanted.gradients, strict=True)}
    for parameter in got.params:
        if (id(parameter) in gradients) != (id(parameter) in wanted_gradients):
            return f"whether {names.get(id(parameter), 'a parameter')!r} has a gradient"
    sizes = [gradient.abs().max() for gradient in wanted.gradients if gradient.numel()]
    noise = _NOISE * factor * float(torch.stack(sizes).max()) if sizes else 0.0
    far = [
        key
        for key, gradient in gradients.items()
        if not _near(gradient, wanted_gradients[key], _GRADIENT * factor, noise)
    ]
    if far:
        with preserve_state(networks), _rounded(got.params):
            other = eager_step(loss_and_grads, args, kwargs, others=got.params, validate=False)
        moved = {id(p): g for p, g in zip(other.trained, other.gradients, strict=True)}
    for key in far:
        own = float((moved[key] - wanted_gradients[key]).abs().max()) if key in moved else 0.0
        allowed = noise + _ROUNDINGS * own
        if not _near(gradients[key], wanted_gradients[key], _GRADIENT * factor, allowed):
            return f"the gradient of {names.get(key, 'a parameter')!r}"
    for one, other in zip(buffers, wanted_buffers, strict=True):
        if not _near(one.float(), other.float(), _GRADIENT * factor, _NOISE * factor):
            return "a buffer"
    return None


def aliased(recording: Recording, tensors: Sequence[Tensor], networks: Sequence[nn.Module]) -> bool:
    """Whether gradients share memory with one another or with what the step reads.

    Scaling such a gradient in place would change another value too.
    """
    with preserve_state(networks):
        gradients = recording(tensors).gradients
    read = {t.untyped_storage().data_ptr() for t in (*tensors, *recording.constants)}
    own = [gradient.untyped_storage().data_ptr() for gradient in gradients if gradient.numel()]
    return len(set(own)) < len(own) or not read.isdisjoint(own)


@contextmanager
def _rounded(parameters: Sequence[Tensor]) -> Iterator[None]:
    """Change each parameter by one rounding within the block, alternately up and down."""
    with preserve_tensors(parameters):
        with torch.no_grad():
            for parameter in parameters:
                signs = torch.arange(parameter.numel(), device=parameter.device) % 2 * 2 - 1
                step = torch.finfo(parameter.dtype).eps * signs.reshape(parameter.shape)
                parameter.mul_(1 + step.to(parameter.dtype))
        yield


def _buffers(networks: Sequence[nn.Module]) -> list[Tensor]:
    return [buffer.clone() for network in networks for buffer in network.buffers()]


def _near(got: Tensor, wanted: Tensor, relative: float, absolute: float) -> bool:
    if got.shape != wanted.shape:
        return False
    apart = (got != wanted) & ~(got.isnan() & wanted.isnan())
    if not apart.any():
        return True
    finite = wanted[wanted.isfinite()]
    largest = float(finite.abs().max()) if finite.numel() else 0.0
    return float((got - wanted)[apart].abs().max()) <= relative * largest + absolute
