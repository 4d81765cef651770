"""The mean-field guide: density, initialization, shapes."""

import pyro
import pytest
import torch
from pyro import poutine
from torch.distributions import Normal

from pvae.guides import MeanField


@pytest.fixture(autouse=True)
def own_parameters():
    torch.manual_seed(0)
    with pyro.get_param_store().scope(), pyro.validation_enabled():
        yield


def test_density_is_product_of_normals():
    guide = MeanField(x_shape=(4, 3), z_dim=2, hidden=5)
    x = torch.rand(6, 4, 3)
    trace = poutine.trace(guide).get_trace(x)
    trace.compute_log_prob()
    site = trace.nodes["z"]
    loc, raw = guide.encoder(x).split(2, -1)
    torch.testing.assert_close(site["fn"].base_dist.loc, loc)
    scale = 1e-5 + torch.log1p(torch.exp(raw) * torch.expm1(torch.tensor(1 - 1e-5)))
    expected = Normal(loc, scale).log_prob(site["value"]).sum(-1)
    torch.testing.assert_close(site["log_prob"], expected)
    assert trace.nodes["_RETURN"]["value"] is site["value"]
    assert [frame.name for frame in site["cond_indep_stack"]] == ["data"]


@pytest.mark.parametrize("network", ["mlp", "conv"])
@pytest.mark.parametrize("x_shape", [(8, 8), (28, 28), (28, 20), (1, 28, 28)])
def test_starts_near_prior(network, x_shape):
    guide = MeanField(x_shape=x_shape, z_dim=20, hidden=50, network=network)
    site = poutine.trace(guide).get_trace(torch.rand(5, *x_shape)).nodes["z"]
    assert site["value"].shape == (5, 20)
    assert site["value"].requires_grad
    assert site["fn"].event_shape == (20,)
    scale = site["fn"].base_dist.scale
    assert ((scale > 0.5) & (scale < 2)).all()
    assert (site["fn"].base_dist.loc.abs() < 1).all()


def test_scale_positive_at_extreme_outputs():
    guide = MeanField(x_shape=(4,), z_dim=2, hidden=())
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.mul_(1e4)
    site = poutine.trace(guide).get_trace(torch.randn(50, 4)).nodes["z"]
    assert site["value"].isfinite().all()
    (-site["fn"].log_prob(site["value"])).sum().backward()
    assert all(p.grad.isfinite().all() for p in guide.parameters())


def test_dtype_follows_parameters():
    guide = MeanField(x_shape=(4,), z_dim=2, hidden=3).double()
    assert guide(torch.randn(5, 4).double()).dtype == torch.float64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": "convv"}, "unknown network 'convv'; nearest: 'conv'"),
        ({"z_dim": 0}, "expected sizes of at least 1"),
    ],
)
def test_invalid_options_raise(options, message):
    with pytest.raises(ValueError, match=message):
        MeanField(**options)


def test_x_of_another_shape_raises():
    with pytest.raises(ValueError, match=r"x_shape \(8, 8\)"):
        MeanField(x_shape=(8, 8), hidden=4)(torch.zeros(5, 64))
