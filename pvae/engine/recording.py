"""Record one gradient step of a pair as a graph of tensor operations."""

import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pyro
import torch
from torch import Tensor, nn
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import Graph, GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_unflatten

from pvae.engine.guards import Guards, Read, guard, has_checks, written_inputs
from pvae.engine.onednn import onednn_is_faster, use_onednn
from pvae.engine.reads import CaptureError, Reads
from pvae.engine.step import Step
from pvae.engine.view_elimination import eliminate_views
from pvae.pair.locations import user_frame
from pvae.pair.preserve import preserve_generators, preserve_gradients, preserve_tensors

__all__ = ["Recording", "on_cuda", "record", "summary"]


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
        guards: what must be read of the step's tensors for a replay to be right; None if nothing.
        reads: what the step read of tensors, here and there.
        masks: lines that index with a boolean mask.
        inside: whether the graph itself checks values or shapes, and may raise `GuardError`.
        written: indices of the inputs that the step changes in place, such as the averages of a
            BatchNorm.
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
    guards: Guards | None = None
    reads: tuple[Read, ...] = ()
    masks: tuple[str, ...] = ()
    inside: bool = False
    written: tuple[int, ...] = ()

    @property
    def is_cuda_graph(self) -> bool:
        """Whether all kernels are launched at once."""
        return self.how.endswith("CUDA graph")

    def __call__(self, tensors: Sequence[Tensor]) -> Step:
        """Replay the step on these tensors."""
        with torch.no_grad():
            return self.step(self.run(*tensors, *self.constants))

    def step(self, outputs: Sequence[Tensor]) -> Step:
        """The step that the graph returned."""
        losses, gradients = tuple(outputs[: self.losses]), list(outputs[self.losses :])
        if self.copies:
            gradients = [gradient.clone() for gradient in gradients]
        return Step(losses, self.several, self.params, self.trained, gradients)


def on_cuda(tensors: Iterable[object]) -> bool:
    """Whether any of the tensors is on a CUDA device."""
    return any(isinstance(tensor, Tensor) and tensor.is_cuda for tensor in tensors)


def record(
    loss_and_grads: Callable[..., object],
    params: list[Tensor],
    buffers: Sequence[Tensor],
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
    *,
    guarded: bool = False,
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
        guarded: whether the step may read values of tensors, and have shapes that depend on values;
            the recording is then right only where they are the same.

    Raises:
        CaptureError: if the step contains what cannot be recorded.
    """
    flat, structure = tree_flatten((args, dict(kwargs)))
    places = [i for i, leaf in enumerate(flat) if isinstance(leaf, Tensor)]
    shape: dict[str, Any] = {}
    reads = Reads(guarded)

    def step(*tensors: Tensor) -> list[Tensor]:
        leaves = list(flat)
        for place, tensor in zip(places, tensors, strict=True):
            leaves[place] = tensor
        own_args, own_kwargs = tree_unflatten(leaves, structure)
        for parameter in params:
            parameter.grad = None
        with reads, pyro.validation_enabled(False):
            loss = loss_and_grads(*own_args, **own_kwargs)
        losses = list(loss) if isinstance(loss, tuple) else [loss]
        shape["several"], shape["losses"] = isinstance(loss, tuple), len(losses)
        shape["trained"] = [p for p in params if p.grad is not None]
        gradients = [p.grad for p in shape["trained"]]
        outputs = [torch.as_tensor(cast(Any, loss)) for loss in losses] + gradients
        return outputs + reads.tensors

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
        raise CaptureError(f"{_line(error)}{summary(error)}") from error
    graph, constants = _lifted(traced.graph, traced)
    guards = guard(graph, reads.reads)
    if has_checks(graph) and not guarded:
        raise CaptureError("shapes in the step depend on values")
    module = _module(graph)
    return Recording(
        module, module.forward, constants, params=params,
        guards=None if guards is None else Guards(_module(guards[0]).forward, guards[1]),
        reads=tuple(reads.reads),
        masks=tuple(dict.fromkeys(reads.masks)),
        inside=has_checks(graph),
        written=tuple(written_inputs(graph)),
        **shape,
    )  # fmt: skip


def _lifted(graph: Graph, owner: nn.Module) -> tuple[Graph, tuple[Tensor, ...]]:
    """Turn the tensors that a graph contains into inputs; returns the graph and those tensors."""
    first = next(node for node in graph.nodes if node.op != "placeholder")
    inputs: dict[str, tuple[Any, Tensor]] = {}
    for node in [node for node in graph.nodes if node.op == "get_attr"]:
        name = str(node.target)
        if name not in inputs:
            with graph.inserting_before(first):
                inputs[name] = graph.placeholder(f"constant_{len(inputs)}"), getattr(owner, name)
        inputs[name][0].meta.update(node.meta)
        node.replace_all_uses_with(inputs[name][0])
    return graph, tuple(constant for _, constant in inputs.values())


def _module(graph: Graph) -> GraphModule:
    """The graph as an executable module, with fewer and faster operations."""
    eliminate_views(graph)
    if onednn_is_faster():
        use_onednn(graph)
    graph.eliminate_dead_code()
    graph.lint()
    return GraphModule(nn.Module(), graph)


def _line(error: BaseException) -> str:
    where = user_frame(traceback.extract_tb(error.__traceback__))
    return f"{where}: " if where else ""


def summary(error: BaseException) -> str:
    """The first line of an error, without torch's internals."""
    lines = str(error).strip().splitlines()
    if lines and "tracing tensor" in lines[0]:
        return "torch reads the value of a tensor here"
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
