"""Record one gradient step of a pair as a graph of tensor operations."""

import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pyro
import torch
from pyro.infer.util import torch_item
from pyro.util import torch_isnan, warn_if_nan
from torch import Tensor, nn
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_unflatten

from pvae.engine.onednn import onednn_is_faster, use_onednn
from pvae.engine.step import Step
from pvae.engine.view_elimination import eliminate_views
from pvae.pair.locations import user_frame
from pvae.pair.preserve import preserve_generators, preserve_gradients, preserve_tensors

__all__ = ["CaptureError", "Recording", "record"]


class CaptureError(Exception):
    """A step that cannot be recorded; the message names the reason and the line of the user."""


@dataclass(frozen=True)
class Recording:
    """A recorded step.

    Attributes:
        graph: the operations, from the step's tensors and then `constants` to losses and gradients.
        run: executes them: the graph itself, or its compiled form.
        constants: the parameters, buffers and other tensors that the step reads, by reference.
        losses: number of outputs that are losses.
        several: whether the objective returns a tuple of losses.
        params: the parameters that the step uses.
        trained: those of them that get a gradient.
        how: "recorded", "compiled", or either as a CUDA graph.
        copies: whether gradients are copied because they share memory with other values.
    """

    graph: GraphModule
    run: Callable[..., Sequence[Tensor]]
    constants: tuple[Tensor, ...]
    losses: int
    several: bool
    params: list[Tensor]
    trained: list[Tensor]
    how: str = "recorded"
    copies: bool = False

    def __call__(self, tensors: Sequence[Tensor]) -> Step:
        """Replay the step on these tensors."""
        with torch.no_grad():
            outputs = self.run(*tensors, *self.constants)
        losses, gradients = tuple(outputs[: self.losses]), list(outputs[self.losses :])
        if self.copies:
            gradients = [gradient.clone() for gradient in gradients]
        return Step(losses, self.several, self.params, self.trained, gradients)


def record(
    loss_and_grads: Callable[..., object],
    params: list[Tensor],
    buffers: Sequence[Tensor],
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
) -> Recording:
    """Record the losses and gradients of a step.

    The step is executed once; random number generator states, buffers and gradients are restored
    afterward.

    Args:
        loss_and_grads: the objective's `loss_and_grads` for the pair; called with args and kwargs.
        params: the parameters that the step updates.
        buffers: those of the pair's networks.
        args: positional arguments of the programs; tensors are inputs of the graph, everything else
            is constant.
        kwargs: keyword arguments of the programs.

    Raises:
        CaptureError: if the step reads the value of a tensor, or contains what cannot be recorded.
    """
    flat, structure = tree_flatten((args, dict(kwargs)))
    places = [i for i, leaf in enumerate(flat) if isinstance(leaf, Tensor)]
    shape: dict[str, Any] = {}

    def step(*tensors: Tensor) -> list[Tensor]:
        leaves = list(flat)
        for place, tensor in zip(places, tensors, strict=True):
            leaves[place] = tensor
        own_args, own_kwargs = tree_unflatten(leaves, structure)
        for parameter in params:
            parameter.grad = None
        with _NoReads(), pyro.validation_enabled(False):
            loss = loss_and_grads(*own_args, **own_kwargs)
        losses = list(loss) if isinstance(loss, tuple) else [loss]
        shape["several"], shape["losses"] = isinstance(loss, tuple), len(losses)
        shape["trained"] = [p for p in params if p.grad is not None]
        gradients = [p.grad for p in shape["trained"]]
        return [torch.as_tensor(cast(Any, loss)) for loss in losses] + gradients

    try:
        # One mode for the shapes of all values: make_fx would make one for each.
        with (
            preserve_gradients(params),
            preserve_tensors(buffers),
            preserve_generators(),
            tracing(TracingContext(FakeTensorMode())),
        ):
            traced = make_fx(step, tracing_mode="real")(*(flat[place] for place in places))
    except CaptureError:
        raise
    except (RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError) as error:
        raise CaptureError(f"{_line(error)}{_summary(error)}") from error
    graph, constants = _lifted(traced)
    return Recording(graph, graph, constants, params=params, **shape)


class _NoReads(TorchFunctionMode):
    """Rejects reads of tensor values, except those that Pyro's objectives make of their loss."""

    _READS = frozenset(
        getattr(Tensor, name)
        for name in ("item", "tolist", "numpy", "__bool__", "__int__", "__float__", "__index__")
    )

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        if func not in self._READS:
            return func(*args, **(kwargs or {}))
        caller = sys._getframe(1)
        code = caller.f_code
        if code in (warn_if_nan.__code__, torch_isnan.__code__):
            return False  # training checks for NaN itself
        of_objective = Path(code.co_filename).parent.name == "infer" and "pyro" in code.co_filename
        if func is Tensor.item and (code is torch_item.__code__ or of_objective):
            return args[0].detach()  # the loss, which stays a tensor
        own = user_frame(traceback.extract_stack(caller))
        where = own or f"{code.co_filename}:{caller.f_lineno}"
        name = getattr(func, "__name__", str(func))
        raise CaptureError(
            f"{where}: {name} reads the value of a tensor, on which the step may depend"
        )


def _lifted(traced: GraphModule) -> tuple[GraphModule, tuple[Tensor, ...]]:
    """Turn the tensors that a graph contains into inputs; returns the graph and those tensors."""
    graph = traced.graph
    first = next(node for node in graph.nodes if node.op != "placeholder")
    inputs: dict[str, tuple[Any, Tensor]] = {}
    for node in [node for node in graph.nodes if node.op == "get_attr"]:
        name = str(node.target)
        if name not in inputs:
            with graph.inserting_before(first):
                inputs[name] = graph.placeholder(f"constant_{len(inputs)}"), getattr(traced, name)
        inputs[name][0].meta.update(node.meta)
        node.replace_all_uses_with(inputs[name][0])
    eliminate_views(graph)
    if onednn_is_faster():
        use_onednn(graph)
    graph.eliminate_dead_code()
    graph.lint()
    return GraphModule(nn.Module(), graph), tuple(constant for _, constant in inputs.values())


def _line(error: BaseException) -> str:
    where = user_frame(traceback.extract_tb(error.__traceback__))
    return f"{where}: " if where else ""


def _summary(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
