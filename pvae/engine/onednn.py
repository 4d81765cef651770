"""Matrix products by oneDNN in recorded steps, on processors where torch's own are slower."""

import functools
import math
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

__all__ = ["onednn_is_faster", "register_lowering_of_onednn", "use_onednn"]

# Floating-point operations below which a call of oneDNN costs more than it saves.
_MIN_FLOPS = 5e6


def _product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """a @ b + bias, for float32 of shapes (n, k), (k, m) and (m,)."""
    linear = torch.ops.mkldnn._linear_pointwise.default
    return linear(_dense(a), _dense(b).t(), bias, "none", [], "")  # type: ignore[no-any-return]


def _dense(matrix: Tensor) -> Tensor:
    """The matrix without gaps between its rows or columns, with which oneDNN is 40 times slower."""
    dense = matrix.is_contiguous() or matrix.t().is_contiguous()
    return matrix if dense else matrix.contiguous()


def _shape_of_product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    return a.new_empty(a.shape[0], b.shape[1])


@functools.cache
def _operation() -> tuple[torch._ops.OpOverload, torch.library.Library]:
    """The product as an operation of graphs, registered when the first graph needs it."""
    library = torch.library.Library("pvae", "DEF")  # unregisters with its last reference
    library.define("product(Tensor a, Tensor b, Tensor? bias=None) -> Tensor")
    library.impl("product", _product, "CPU")
    torch.library.register_fake("pvae::product", _shape_of_product, lib=library)
    return torch.ops.pvae.product.default, library


def onednn_is_faster() -> bool:
    """Whether oneDNN multiplies matrices faster than MKL, which torch calls.

    MKL does not use AVX-512 on AMD processors, and reaches half of their speed.
    """
    able = torch.cpu.get_capabilities()
    return (
        "AMD" in str(able.get("cpu_name", ""))
        and bool(able.get("avx512_f"))
        and torch.backends.mkl.is_available()
        and torch.backends.mkldnn.is_available()
    )


def use_onednn(graph: Graph) -> None:
    """Replace the large float32 products of a CPU graph in place."""
    aten = torch.ops.aten
    product, _ = _operation()
    for node in list(graph.nodes):
        if node.kwargs or node.target not in (aten.mm.default, aten.addmm.default):
            continue
        *bias, a, b = node.args
        if not _suits(a, b, *bias):
            continue
        with graph.inserting_before(node):
            new = graph.call_function(product, (a, b, *bias))
        new.meta.update(node.meta)
        node.replace_all_uses_with(new)
        graph.erase_node(node)


@functools.cache
def register_lowering_of_onednn() -> None:
    """Make compiled graphs call oneDNN directly.

    Inductor calls an unknown operation through the dispatcher and Python, which costs 10 us per
    product. It knows this product as a linear layer with frozen weights; here both factors may
    change between calls.
    """
    from torch._inductor import ir, mkldnn_ir
    from torch._inductor.lowering import permute, register_lowering

    # The types of Inductor's nodes are private.
    def lowered(a: Any, b: Any, bias: Any = None) -> Any:
        kernel = ir.ExternKernel
        factors = [kernel.require_contiguous(kernel.realize_input(a))]
        factors.append(kernel.realize_input(permute(b, [1, 0])))
        options: list[Any] = ["none", [-1], ""]
        if bias is None:
            options.insert(0, None)
        else:
            factors.append(kernel.require_contiguous(kernel.realize_input(bias)))
        shape = [a.get_size()[0], b.get_size()[1]]
        layout = ir.FixedLayout(device=a.get_device(), dtype=a.get_dtype(), size=shape)
        linear = mkldnn_ir.LinearUnary(layout, factors, options)
        return ir.TensorBox.create(mkldnn_ir._create_output_node(linear))

    register_lowering(_operation()[0], type_promotion_kind=None)(lowered)


def _suits(*nodes: Node) -> bool:
    values = [value for node in nodes if isinstance(value := node.meta.get("val"), Tensor)]
    if not all(v.dtype is torch.float32 and v.device.type == "cpu" for v in values):
        return False
    if len(values) < len(nodes):
        return False
    a, b, *bias = values
    if any(value.shape != b.shape[1:] for value in bias):
        return False
    return 2 * math.prod((*a.shape, b.shape[1])) >= _MIN_FLOPS
