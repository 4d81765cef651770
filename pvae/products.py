"""Products of matrices by oneDNN, in recorded steps on processors where torch's own are slower."""

import math

import torch
from torch import Tensor
from torch.fx import Graph, Node

__all__ = ["by_onednn", "faster_by_onednn"]

# Additions and multiplications below which a call of oneDNN costs more than it saves.
_LEAST = 1e7

_library = torch.library.Library("pvae", "DEF")
_library.define("product(Tensor a, Tensor b, Tensor? bias=None) -> Tensor")


def _product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """a @ b + bias, for float32 of shapes (n, k), (k, m) and (m,)."""
    linear = torch.ops.mkldnn._linear_pointwise.default
    return linear(a, b.t(), bias, "none", [], "")  # type: ignore[no-any-return]


def _shape_of_product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    return a.new_empty(a.shape[0], b.shape[1])


_library.impl("product", _product, "CPU")
torch.library.register_fake("pvae::product", _shape_of_product)


def faster_by_onednn() -> bool:
    """Whether this machine multiplies faster by oneDNN than by what torch calls.

    That is MKL, which takes AMD's processors for older ones than they are: where these have
    AVX-512 it reaches half of their speed.
    """
    able = torch.cpu.get_capabilities()
    return (
        "AMD" in str(able.get("cpu_name", ""))
        and bool(able.get("avx512_f"))
        and torch.backends.mkl.is_available()
        and torch.backends.mkldnn.is_available()
    )


def by_onednn(graph: Graph) -> None:
    """Replace, in place, the large float32 products of a graph on the CPU."""
    aten = torch.ops.aten
    product = torch.ops.pvae.product.default
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


def _suits(*nodes: Node) -> bool:
    values = [value for node in nodes if isinstance(value := node.meta.get("val"), Tensor)]
    if not all(v.dtype is torch.float32 and v.device.type == "cpu" for v in values):
        return False
    if len(values) < len(nodes):
        return False
    a, b, *bias = values
    if any(value.shape != b.shape[1:] for value in bias):
        return False
    return 2 * math.prod((*a.shape, b.shape[1])) >= _LEAST
