"""The VAE: density, every likelihood and network, particles, draws, errors."""

import importlib.util
from pathlib import Path

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch.distributions import Normal

from pvae import likelihoods
from pvae.guides import MeanField
from pvae.models import VAE

LEVELS = 5
ELEMENTWISE = sorted(set(likelihoods.names) - {"gaussian_full", "gaussian_low_rank", "mixed"})


@pytest.fixture(autouse=True)
def own_parameters():
    torch.manual_seed(0)
    with pyro.get_param_store().scope(), pyro.validation_enabled():
        yield


def data(name, x_shape, n=3):
    if name == "bernoulli":
        return torch.randint(0, 2, (n, *x_shape)).float()
    if name in ("poisson", "negative_binomial", "zero_inflated_negative_binomial"):
        return torch.randint(0, 9, (n, *x_shape)).float()
    if name in ("classes", "ordinal"):
        return torch.randint(0, LEVELS, (n, *x_shape)).float()
    if name in ("beta", "log_normal"):
        return 0.05 + 0.9 * torch.rand(n, *x_shape)
    return torch.randint(0, LEVELS, (n, *x_shape)) / (LEVELS - 1)


@pytest.mark.parametrize("x_shape", [(8, 8), (28, 28), (28, 20), (1, 28, 28)])
@pytest.mark.parametrize("network", ["mlp", "conv"])
@pytest.mark.parametrize("likelihood", ELEMENTWISE)
def test_elbo_and_gradients_are_finite(likelihood, network, x_shape):
    shared = {"x_shape": x_shape, "z_dim": 2, "hidden": 8, "network": network}
    model = VAE(**shared, likelihood=likelihood, levels=LEVELS)
    guide = MeanField(**shared)
    loss = Trace_ELBO().differentiable_loss(model, guide, data(likelihood, x_shape))
    assert loss.isfinite()
    loss.backward()
    for name, parameter in [*model.named_parameters(), *guide.named_parameters()]:
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert (parameter.grad != 0).any(), name


def test_joint_density_is_prior_times_likelihood():
    model = VAE(x_shape=(4, 3), z_dim=2, hidden=5)
    x, z = data("bernoulli", (4, 3)), torch.randn(3, 2)
    trace = poutine.trace(poutine.condition(model, {"z": z})).get_trace(x)
    logits = model.decoder(z)[:, 0]
    expected_x = -torch.nn.functional.softplus(torch.where(x == 1, -logits, logits)).sum((1, 2))
    torch.testing.assert_close(
        trace.log_prob_sum(), expected_x.sum() + Normal(0, 1).log_prob(z).sum()
    )
    trace.compute_log_prob()
    torch.testing.assert_close(trace.nodes["x"]["log_prob"], expected_x)
    assert trace.nodes["z"]["log_prob"].shape == (3,)
    assert trace.nodes["x"]["is_observed"]
    assert [frame.name for frame in trace.nodes["x"]["cond_indep_stack"]] == ["data"]


@pytest.mark.parametrize("network", ["mlp", "conv"])
@pytest.mark.parametrize("likelihood", ELEMENTWISE)
def test_vectorized_particles_match_loop(likelihood, network):
    model = VAE(
        x_shape=(6, 5), z_dim=2, hidden=8, likelihood=likelihood, network=network, levels=LEVELS
    )
    guide = MeanField(x_shape=(6, 5), z_dim=2, hidden=8, network=network)
    x = data(likelihood, (6, 5))

    def log_weights(model_trace, guide_trace):
        model_trace.compute_log_prob()
        guide_trace.compute_log_prob()
        terms = (model_trace.nodes[site]["log_prob"] for site in ("z", "x"))
        return sum(terms) - guide_trace.nodes["z"]["log_prob"]

    elbo = Trace_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=1)
    ((model_trace, guide_trace),) = elbo._get_traces(model, guide, (x,), {})
    vectorized = log_weights(model_trace, guide_trace)
    z = guide_trace.nodes["z"]["value"]
    assert z.shape == (4, 3, 2)
    assert vectorized.shape == (4, 3)
    for k in range(4):
        values = {"z": z[k]}
        looped = log_weights(
            poutine.trace(poutine.condition(model, values)).get_trace(x),
            poutine.trace(poutine.condition(guide, values)).get_trace(x),
        )
        torch.testing.assert_close(vectorized[k], looped, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("likelihood", ELEMENTWISE)
def test_unconditioned_draws_x(likelihood):
    model = VAE(x_shape=(6, 5), z_dim=2, hidden=8, likelihood=likelihood, levels=LEVELS)
    x = data(likelihood, (6, 5))
    torch.testing.assert_close(model(x), x)
    trace = poutine.trace(poutine.uncondition(model)).get_trace(x)
    drawn = trace.nodes["x"]["value"]
    assert trace.nodes["_RETURN"]["value"] is drawn
    assert drawn.shape == x.shape
    assert not torch.equal(drawn, x)
    assert trace.nodes["x"]["fn"].support.check(drawn).all()
    assert trace.nodes["z"]["value"].shape == (3, 2)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_prior_dtype_follows_parameters(name):
    model = VAE(x_shape=(4, 3), z_dim=2, hidden=5, likelihood=name, levels=LEVELS).double()
    trace = poutine.trace(poutine.uncondition(model)).get_trace(torch.zeros(3, 4, 3))
    assert trace.nodes["z"]["value"].dtype == torch.float64
    assert trace.nodes["x"]["value"].dtype == torch.float64


def test_x_outside_support_raises():
    with pytest.raises(ValueError, match="support"):
        poutine.trace(VAE(x_shape=(4, 3), z_dim=2, hidden=5)).get_trace(
            torch.full((3, 4, 3), 0.5)
        ).compute_log_prob()


def test_options():
    built = likelihoods.DiscretizedLogistic((4, 3), levels=7)
    assert VAE(x_shape=(4, 3), likelihood=built).likelihood is built
    assert VAE(x_shape=[4, 3], likelihood=likelihoods.Gaussian).likelihood.outputs == 1
    assert VAE(x_shape=(4, 3), likelihood="categorical", levels=9).likelihood.levels == 9
    assert VAE(x_shape=(4, 3), likelihood="categorical").likelihood.levels == 256
    deep = VAE(x_shape=(4, 3), z_dim=2, hidden=(5, 6))
    assert [p.shape[0] for p in deep.parameters() if p.dim() == 2] == [5, 6, 12]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"likelihood": "gausian"}, "unknown likelihood 'gausian'; nearest: 'gaussian'"),
        ({"network": "cnn"}, "unknown network 'cnn'"),
        ({"network": "conv", "x_shape": (5,)}, "use network 'mlp'"),
        ({"z_dim": 0}, "z_dim is 0: give at least 1"),
        ({"hidden": (5, 0)}, "expected whole sizes of at least 1"),
        ({"likelihood": likelihoods.Gaussian((3, 3))}, r"built for x_shape \(3, 3\)"),
    ],
)
def test_invalid_options_raise(options, message):
    with pytest.raises(ValueError, match=message):
        VAE(**options)


def test_x_of_another_shape_raises():
    with pytest.raises(ValueError, match=r"build it with x_shape=\(1, 8, 8\)"):
        VAE(x_shape=(8, 8), hidden=4)(torch.zeros(5, 1, 8, 8))


@pytest.mark.parametrize("package", ["models", "guides"])
def test_bare_package_import_raises(package):
    path = Path(__file__).parents[2] / package / "__init__.py"
    spec = importlib.util.spec_from_file_location(package, path)
    with pytest.raises(ImportError, match=f"from pvae.{package} import"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
