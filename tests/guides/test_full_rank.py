"""The full-rank guide: density by hand, mean field as a special case, initialization."""

import math

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO

from pvae.guides import FullRank, MeanField
from pvae.models import VAE


@pytest.fixture(autouse=True)
def own_parameters():
    torch.manual_seed(0)
    with pyro.get_param_store().scope(), pyro.validation_enabled():
        yield


def set_output(guide, values):
    """Make a linear guide's output constant in x."""
    linear = guide.encoder.mlp.layers[0]
    with torch.no_grad():
        linear.weight.zero_()
        linear.bias.copy_(torch.tensor(values))


def raw(scale):
    """The inverse of `positive`."""
    return math.log(math.expm1(scale - 1e-5)) - math.log(math.expm1(1 - 1e-5))


def test_density_is_multivariate_normal():
    guide = FullRank(x_shape=(4,), z_dim=3, hidden=())
    root = 3**0.5
    below = [0.5 * root, -0.3 * root, 0.8 * root]
    set_output(guide, [0.1, -0.2, 0.3, raw(0.5), raw(2.0), raw(1.5), *below])
    loc = torch.tensor([0.1, -0.2, 0.3])
    factor = torch.tensor([[0.5, 0, 0], [0.5, 2.0, 0], [-0.3, 0.8, 1.5]])
    covariance = factor @ factor.T
    trace = poutine.trace(guide).get_trace(torch.randn(7, 4))
    trace.compute_log_prob()
    site = trace.nodes["z"]
    torch.testing.assert_close(site["fn"].covariance_matrix, covariance.expand(7, 3, 3))
    off = site["value"] - loc
    quadratic = (off @ torch.linalg.inv(covariance) * off).sum(-1)
    expected = -0.5 * (quadratic + torch.logdet(covariance) + 3 * math.log(2 * math.pi))
    torch.testing.assert_close(site["log_prob"], expected, rtol=1e-4, atol=1e-4)
    assert trace.nodes["_RETURN"]["value"] is site["value"]
    assert [frame.name for frame in site["cond_indep_stack"]] == ["data"]


def test_draws_have_covariance():
    guide = FullRank(x_shape=(4,), z_dim=2, hidden=())
    set_output(guide, [1.0, -1.0, raw(0.5), raw(0.2), 0.9 * 2**0.5])
    z = guide(torch.zeros(100_000, 4)).detach()
    factor = torch.tensor([[0.5, 0], [0.9, 0.2]])
    torch.testing.assert_close(z.mean(0), torch.tensor([1.0, -1.0]), rtol=0, atol=0.02)
    torch.testing.assert_close(z.T.cov(), factor @ factor.T, rtol=0, atol=0.02)


def test_zero_off_diagonals_are_mean_field():
    full, mean = (G(x_shape=(4,), z_dim=3, hidden=()) for G in (FullRank, MeanField))
    values = [0.1, -0.2, 0.3, -1.0, 0.5, 2.0]
    set_output(mean, values)
    set_output(full, [*values, 0.0, 0.0, 0.0])
    x, z = torch.randn(7, 4), torch.randn(7, 3)
    log_prob = []
    for guide in (full, mean):
        trace = poutine.trace(poutine.condition(guide, {"z": z})).get_trace(x)
        trace.compute_log_prob()
        log_prob.append(trace.nodes["z"]["log_prob"])
    torch.testing.assert_close(log_prob[0], log_prob[1])


@pytest.mark.parametrize("z_dim", [1, 2, 20, 64])
@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_starts_near_prior(network, z_dim):
    guide = FullRank(x_shape=(28, 20), z_dim=z_dim, hidden=50, network=network)
    site = poutine.trace(guide).get_trace(torch.rand(5, 28, 20)).nodes["z"]
    assert site["value"].shape == (5, z_dim)
    variance = site["fn"].variance
    assert ((variance > 0.25) & (variance < 4)).all()
    assert (site["fn"].scale_tril.diagonal(dim1=-2, dim2=-1) > 0).all()


def test_gradients_with_vectorized_particles():
    shared = {"x_shape": (8, 8), "z_dim": 3, "hidden": 8}
    model, guide = VAE(**shared), FullRank(**shared)
    elbo = Trace_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=1)
    loss = elbo.differentiable_loss(model, guide, torch.randint(0, 2, (5, 8, 8)).float())
    loss.backward()
    assert loss.isfinite()
    for name, parameter in [*model.named_parameters(), *guide.named_parameters()]:
        assert parameter.grad.isfinite().all(), name
        assert (parameter.grad != 0).any(), name


def test_state_dict_and_dtype():
    guide = FullRank(x_shape=(4,), z_dim=2, hidden=3).double()
    assert all(name.startswith("encoder.") for name in guide.state_dict())
    assert guide(torch.randn(5, 4).double()).dtype == torch.float64


@pytest.mark.parametrize("z_dim", [0, -1])
def test_zero_latent_variables_raise(z_dim):
    with pytest.raises(ValueError, match="expected sizes of at least 1"):
        FullRank(z_dim=z_dim)
