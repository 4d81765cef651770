"""The bottom-up guide: density by hand and by enumeration, initialization, errors."""

import itertools

import pyro
import pytest
import torch
from pyro import poutine
from torch.distributions import Normal

import pvae
from pvae.guides import BottomUp
from pvae.models import HelmholtzMachine

DIMS = (4, 3, 2)


@pytest.fixture(autouse=True)
def own_parameters():
    torch.manual_seed(0)
    with pyro.get_param_store().scope(), pyro.validation_enabled():
        yield


def test_density_is_product_of_layers():
    guide = BottomUp(x_shape=(5, 2), dims=DIMS, hidden=6)
    x = torch.rand(7, 5, 2)
    trace = poutine.trace(guide).get_trace(x)
    trace.compute_log_prob()
    below = x.reshape(7, 10)
    for m, network in enumerate(guide.layers, 1):
        site = trace.nodes[f"z{m}"]
        loc, raw = network(below).split(DIMS[m - 1], -1)
        scale = 1e-5 + torch.log1p(torch.exp(raw) * torch.expm1(torch.tensor(1 - 1e-5)))
        expected = Normal(loc, scale).log_prob(site["value"]).sum(-1)
        torch.testing.assert_close(site["log_prob"], expected)
        assert [frame.name for frame in site["cond_indep_stack"]] == ["data"]
        below = site["value"]
    assert trace.nodes["_RETURN"]["value"] is trace.nodes["z3"]["value"]


def test_bernoulli_probabilities_sum_to_one():
    guide = BottomUp(x_shape=(5, 2), dims=DIMS, latent="bernoulli", hidden=6)
    bits = torch.tensor(list(itertools.product([0.0, 1.0], repeat=9)))
    values = {"z1": bits[:, :4], "z2": bits[:, 4:7], "z3": bits[:, 7:]}
    conditioned = poutine.condition(guide, values)
    trace = poutine.trace(conditioned).get_trace(torch.rand(1, 5, 2).expand(512, 5, 2))
    trace.compute_log_prob()
    log_prob = sum(trace.nodes[site]["log_prob"] for site in values)
    assert log_prob.logsumexp(0).item() == pytest.approx(0, abs=1e-5)


def test_bernoulli_layers_draw_bits():
    guide = BottomUp(x_shape=(5, 2), dims=DIMS, latent="bernoulli")
    for value in pvae.infer(guide, torch.rand(500, 5, 2)).values():
        assert value.unique().tolist() == [0.0, 1.0]


@pytest.mark.parametrize("latent", ["gaussian", "bernoulli"])
def test_undefined_quantities_raise(latent):
    options = {"x_shape": (5, 2), "dims": DIMS, "latent": latent, "hidden": 6}
    model, guide = HelmholtzMachine(**options), BottomUp(**options)
    x = torch.randint(0, 2, (40, 5, 2)).float()
    use = pvae.evaluation.latent_use(model, guide, x, num_particles=2)
    assert list(use.divergence) == ["z1", "z2", "z3"]
    assert use.information is not None
    assert pvae.log_likelihood(model, guide, x, num_particles=5).mean < 0
    if latent == "bernoulli":
        with pytest.raises(
            pvae.evaluation.UndefinedQuantityError, match="needs continuous latents"
        ):
            pvae.ais(model, guide, x)
        with pytest.raises(pvae.evaluation.UndefinedQuantityError, match="not reparameterized"):
            pvae.evaluation.amortization_gap(model, guide, x)


@pytest.mark.parametrize("network", [{"hidden": ()}, {"hidden": 50, "norm": "batch"}])
def test_starts_near_prior(network):
    guide = BottomUp(x_shape=(28, 20), dims=(20, 10), **network)
    trace = poutine.trace(guide).get_trace(torch.rand(9, 28, 20))
    for site in ("z1", "z2"):
        fn = trace.nodes[site]["fn"].base_dist
        assert ((fn.scale > 0.2) & (fn.scale < 3)).all()
        assert (fn.loc.abs() < 3).all()


def test_dtype_follows_parameters():
    guide = BottomUp(x_shape=(4,), dims=DIMS).double()
    assert guide(torch.randn(5, 4).double()).dtype == torch.float64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dims": ()}, r"dims is \(\); expected one or more sizes"),
        ({"dims": (5, 0)}, r"dims is \(5, 0\)"),
        ({"latent": "binary"}, "unknown latent 'binary'; choose one of"),
        ({"x_shape": ()}, "x_shape is"),
        ({"activation": "rellu", "hidden": 4}, "nearest: 'relu'"),
    ],
)
def test_invalid_options_raise(options, message):
    with pytest.raises(ValueError, match=message):
        BottomUp(**options)


def test_x_of_another_shape_raises():
    with pytest.raises(ValueError, match=r"x_shape \(8, 8\)"):
        BottomUp(x_shape=(8, 8))(torch.zeros(5, 64))
