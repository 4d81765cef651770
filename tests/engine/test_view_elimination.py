"""A graph without redundant views computes the same with fewer operations."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from pvae.engine.view_elimination import eliminate_views


def twice_transposed(x):
    return x.t().t() + x.t().t().t().t()


def detached(x):
    return x.detach().sin() + x.detach().detach()


def viewed(x):
    return x.view(3, 4) * x.expand(3, 4) + x.view(4, 3).t()


def transposed_again(x):
    return x.t().exp().sum() + x.t().sum()


def in_place(x):
    copy = x.clone()
    copy.detach().mul_(2)
    copy.t().t().add_(1)
    return copy.view(3, 4)


def only_views(x):
    return x.detach().t().t()


@pytest.mark.parametrize(
    ("function", "fewer"),
    [
        (twice_transposed, 4), (detached, 3), (viewed, 2), (transposed_again, 1), (in_place, 4),
        (only_views, 3),
    ],
)  # fmt: skip
def test_same_result_with_fewer_operations(function, fewer):
    x = torch.arange(12.0).reshape(3, 4).cos()
    wanted = function(x)
    traced = make_fx(function)(x)
    before = len(traced.graph.nodes)
    eliminate_views(traced.graph)
    traced.graph.eliminate_dead_code()
    traced.graph.lint()
    traced.recompile()
    assert torch.equal(traced(x), wanted)
    assert before - len(traced.graph.nodes) >= fewer
