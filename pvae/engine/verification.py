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
# Several are tried: where a ReLU's input is almost 0, some of them move it to the other side.
_ROUNDINGS, _TRIES = 16.0, 8
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
    if {id(p) for p in wanted.params} != {id(p) for p in got.params}:
        return "the set of parameters"
    names = {id(p): name for name, p in pyro.get_param_store()._params.items()}
    gradients = {id(p): g for p, g in zip(got.trained, got.gradients, strict=True)}
    wanted_gradients = {id(p): g for p, g in zip(wanted.trained, wanted.gradients, strict=True)}
    for parameter in got.params:
        if (id(parameter) in gradients) != (id(parameter) in wanted_gradients):
            return f"whether {names.get(id(parameter), 'a parameter')!r} has a gradient"
    losses = list(zip(cast("tuple[Tensor, ...]", got.losses), wanted.losses, strict=True))
    pairs = [(one, torch.as_tensor(cast(Any, other), device=one.device)) for one, other in losses]
    pairs += [(gradient, wanted_gradients[key]) for key, gradient in gradients.items()]
    pairs += zip(buffers, wanted_buffers, strict=True)
    found = _compared(pairs)
    if not all(apart <= _LOSS * factor * size for apart, size in found[: len(losses)]):
        return "the loss"
    of_gradients = dict(zip(gradients, found[len(losses) :], strict=False))
    noise = _NOISE * factor * max((size for _, size in of_gradients.values()), default=0.0)
    allowed = {key: _GRADIENT * factor * size + noise for key, (_, size) in of_gradients.items()}
    far = [key for key, (apart, _) in of_gradients.items() if not apart <= allowed[key]]
    explained: set[int] = set()
    for seed in range(_TRIES if far else 0):
        with preserve_state(networks), _rounded(got.params, seed):
            other = eager_step(loss_and_grads, args, kwargs, others=got.params, validate=False)
        moved = {id(p): g for p, g in zip(other.trained, other.gradients, strict=True)}
        for key in far:
            own = float((moved[key] - wanted_gradients[key]).abs().max()) if key in moved else 0.0
            if of_gradients[key][0] <= allowed[key] + _ROUNDINGS * own:
                explained.add(key)
        if explained.issuperset(far):
            break
    for key in far:
        if key not in explained:
            return f"the gradient of {names.get(key, 'a parameter')!r}"
    for apart, size in found[len(losses) + len(gradients) :]:
        if not apart <= (_GRADIENT * size + _NOISE) * factor:
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
def _rounded(parameters: Sequence[Tensor], seed: int) -> Iterator[None]:
    """Change each parameter by one rounding within the block, up or down at random."""
    generator = torch.Generator().manual_seed(seed)
    with preserve_tensors(parameters):
        with torch.no_grad():
            for parameter in parameters:
                signs = torch.randint(2, parameter.shape, generator=generator) * 2 - 1
                step = torch.finfo(parameter.dtype).eps * signs
                parameter.mul_(1 + step.to(parameter.device, parameter.dtype))
        yield


def _buffers(networks: Sequence[nn.Module]) -> list[Tensor]:
    return [buffer.clone() for network in networks for buffer in network.buffers()]


def _compared(pairs: Sequence[tuple[Tensor, Tensor]]) -> list[tuple[float, float]]:
    """The largest difference of each pair, and the largest finite value of its second tensor.

    What is equal, infinite or NaN, has no difference; one NaN makes it NaN. Devices are read once.
    """
    rows = []
    for got, wanted in pairs:
        if got.shape != wanted.shape:
            rows.append(torch.tensor([torch.inf, 0.0], device=got.device))
        elif not wanted.numel():
            rows.append(torch.zeros(2, device=got.device))
        else:
            got, wanted = got.float(), wanted.float()
            same = (got == wanted) | (got.isnan() & wanted.isnan())
            apart = (got - wanted).abs().masked_fill(same, 0.0).max()
            size = wanted.abs().masked_fill(~wanted.isfinite(), 0.0).max()
            rows.append(torch.stack([apart, size]))
    rows = [row.to(rows[0].device) for row in rows]
    return [(apart, size) for apart, size in torch.stack(rows).tolist()] if rows else []
