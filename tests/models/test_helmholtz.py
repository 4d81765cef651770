"""The Helmholtz machine: density by hand and by enumeration, the VAE as a special case, errors."""

import itertools
import math

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch.distributions import Bernoulli, Normal

import pvae
from pvae import likelihoods
from pvae.guides import BottomUp
from pvae.models import VAE, HelmholtzMachine

DIMS = (5, 4, 3)
KINDS = ["gaussian", "bernoulli"]
NETWORKS = [
    {"hidden": ()},
    {"hidden": 8},
    {"hidden": 8, "norm": "batch"},
    {"hidden": 8, "norm": "weight"},
    {"hidden": (8, 6), "norm": "batch", "residual": True},
]


@pytest.fixture(autouse=True)
def own_parameters():
    torch.manual_seed(0)
    with pyro.get_param_store().scope(), pyro.validation_enabled():
        yield


def data(n=6, x_shape=(4, 3)):
    return torch.randint(0, 2, (n, *x_shape)).float()


def draws(latent, dims=DIMS, n=6):
    z = {f"z{m}": torch.randn(n, dim) for m, dim in enumerate(dims, 1)}
    return {k: (v > 0).float() for k, v in z.items()} if latent == "bernoulli" else z


def log_probs(program, values, x):
    trace = poutine.trace(poutine.condition(program, values)).get_trace(x)
    trace.compute_log_prob()
    sites = [*values, "x"] if "x" in trace.nodes else list(values)
    return {site: trace.nodes[site]["log_prob"] for site in sites}


@pytest.mark.parametrize("latent", KINDS)
def test_log_joint_is_sum_of_layers(latent):
    model = HelmholtzMachine(x_shape=(4, 3), dims=DIMS, latent=latent, hidden=7)
    x, z = data(), draws(latent)
    if latent == "bernoulli":
        torch.nn.init.normal_(model.top_logits)

        def layer(outputs):
            return Bernoulli(logits=outputs)

        top = Bernoulli(logits=model.top_logits)
    else:

        def layer(outputs):
            loc, raw = outputs.split(outputs.shape[-1] // 2, -1)
            scale = 1e-5 + torch.log1p(torch.exp(raw) * math.expm1(1 - 1e-5))
            return Normal(loc, scale)

        top = Normal(0, 1)
    expected = {
        "z3": top.log_prob(z["z3"]).sum(-1),
        "z2": layer(model.layers[1](z["z3"])).log_prob(z["z2"]).sum(-1),
        "z1": layer(model.layers[0](z["z2"])).log_prob(z["z1"]).sum(-1),
        "x": Bernoulli(logits=model.decoder(z["z1"])[:, 0]).log_prob(x).sum((1, 2)),
    }
    found = log_probs(model, z, x)
    for site, value in expected.items():
        torch.testing.assert_close(found[site], value)
    trace = poutine.trace(poutine.condition(model, z)).get_trace(x)
    torch.testing.assert_close(trace.log_prob_sum(), sum(expected.values()).sum())
    assert [name for name in trace.nodes if name in found] == ["z3", "z2", "z1", "x"]
    assert {frame.name for frame in trace.nodes["z2"]["cond_indep_stack"]} == {"data"}


def test_belief_network_probabilities_sum_to_one():
    model = HelmholtzMachine(x_shape=(2,), dims=(3, 2), latent="bernoulli")
    bits = torch.tensor(list(itertools.product([0.0, 1.0], repeat=7)))
    values = {"z1": bits[:, 2:5], "z2": bits[:, 5:]}
    log_joint = sum(log_probs(model, values, bits[:, :2]).values())
    assert log_joint.logsumexp(0).item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian_pixel_scale"])
def test_one_gaussian_layer_is_vae(likelihood):
    shared = {"x_shape": (4, 3), "hidden": (8, 7), "likelihood": likelihood}
    machine, vae = HelmholtzMachine(dims=(2,), **shared), VAE(z_dim=2, **shared)
    vae.decoder.load_state_dict(machine.decoder.state_dict())
    x, z = data(), torch.randn(6, 2)
    found, expected = log_probs(machine, {"z1": z}, x), log_probs(vae, {"z": z}, x)
    assert torch.equal(found["z1"], expected["z"])
    assert torch.equal(found["x"], expected["x"])


@pytest.mark.parametrize("latent", KINDS)
@pytest.mark.parametrize("network", NETWORKS)
def test_leading_dimensions_are_tiled_rows(network, latent):
    options = {"x_shape": (4, 3), "dims": DIMS, "latent": latent, **network}
    x = data()
    elbo = Trace_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=1)
    model, guide = HelmholtzMachine(**options), BottomUp(**options)
    # Also in train mode: batch normalization averages over particles and rows.
    ((model_trace, guide_trace),) = elbo._get_traces(model, guide, (x,), {})
    sites = ("z1", "z2", "z3")
    assert guide_trace.nodes["z2"]["value"].shape == (4, 6, 4)
    tiled = {site: guide_trace.nodes[site]["value"].flatten(0, 1) for site in sites}
    for program, trace in ((model, model_trace), (guide, guide_trace)):
        trace.compute_log_prob()
        expected = log_probs(program, tiled, x.repeat(4, 1, 1))
        for site, value in expected.items():
            found = trace.nodes[site]["log_prob"].flatten(0, 1)
            torch.testing.assert_close(found, value, rtol=1e-4, atol=1e-4)


def test_bernoulli_layers_draw_bits():
    model = HelmholtzMachine(x_shape=(4, 3), dims=DIMS, latent="bernoulli", hidden=7)
    with torch.no_grad():
        model.top_logits.copy_(torch.tensor([-1.0, 0.0, 2.0]))
    sites = pvae.sample(model, torch.zeros(20_000, 4, 3))
    for value in sites.values():
        assert set(value.unique().tolist()) <= {0.0, 1.0}
    torch.testing.assert_close(
        sites["z3"].mean(0), model.top_logits.sigmoid().detach(), rtol=0, atol=0.02
    )


@pytest.mark.parametrize("hidden", [(), 7])
def test_bernoulli_units_start_mostly_off(hidden):
    options = {"x_shape": (4, 3), "dims": (40, 30, 20), "latent": "bernoulli", "hidden": hidden}
    for program in (HelmholtzMachine(**options), BottomUp(**options)):
        nodes = poutine.trace(program).get_trace(data(500)).nodes
        for m in (1, 2, 3):
            assert 0.08 < nodes[f"z{m}"]["value"].mean() < 0.2


@pytest.mark.parametrize("network", NETWORKS)
def test_elbo_and_gradients_are_finite(network):
    options = {"x_shape": (4, 3), "dims": DIMS, **network}
    model, guide = HelmholtzMachine(**options), BottomUp(**options)
    loss = Trace_ELBO().differentiable_loss(model, guide, data())
    assert loss.isfinite()
    loss.backward()
    for name, parameter in [*model.named_parameters(), *guide.named_parameters()]:
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert (parameter.grad != 0).any(), name


@pytest.mark.parametrize("latent", KINDS)
def test_prior_matches_program_and_registers_nothing(latent):
    model = HelmholtzMachine(x_shape=(4, 3), dims=DIMS, latent=latent, hidden=7)
    z = draws(latent)
    with poutine.trace() as tracer:
        found = {m: model.prior(m, z.get(f"z{m + 1}")) for m in (1, 2, 3)}
    assert not tracer.trace.nodes
    assert not list(pyro.get_param_store().keys())
    expected = log_probs(model, z, data())
    for m, layer in found.items():
        assert layer.event_shape == (DIMS[m - 1],)
        torch.testing.assert_close(layer.log_prob(z[f"z{m}"]), expected[f"z{m}"])


def test_standard_normal_top_and_unit_initial_scales():
    model = HelmholtzMachine(x_shape=(4, 3), dims=DIMS)
    for parameter in model.layers.parameters():
        torch.nn.init.zeros_(parameter)
    assert torch.equal(model.prior(3).base_dist.scale, torch.ones(3))
    below = model.prior(2, torch.randn(6, 3)).base_dist
    torch.testing.assert_close(below.loc, torch.zeros(6, 4))
    torch.testing.assert_close(below.scale, torch.ones(6, 4))


def test_batch_norm_separates_rows_in_eval_mode():
    model = HelmholtzMachine(x_shape=(4, 3), dims=DIMS, hidden=7, norm="batch")
    x, z = data(), draws("gaussian")
    one = {site: value[:3] for site, value in z.items()}
    assert not torch.allclose(log_probs(model, one, x[:3])["x"], log_probs(model, z, x)["x"][:3])
    model.eval()
    torch.testing.assert_close(log_probs(model, one, x[:3])["x"], log_probs(model, z, x)["x"][:3])


@pytest.mark.parametrize("latent", KINDS)
def test_dtype_follows_parameters(latent):
    model = HelmholtzMachine(x_shape=(4, 3), dims=DIMS, latent=latent).double()
    trace = poutine.trace(poutine.uncondition(model)).get_trace(torch.zeros(6, 4, 3))
    assert all(trace.nodes[s]["value"].dtype == torch.float64 for s in ("z3", "z2", "z1", "x"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dims": ()}, r"dims is \(\); expected one or more sizes"),
        ({"dims": (5, 0)}, r"dims is \(5, 0\)"),
        ({"latent": "binary"}, "unknown latent 'binary'; choose one of"),
        ({"norm": "bacth", "hidden": 4}, "unknown norm 'bacth'; nearest: 'batch'"),
        ({"norm": "batch"}, "give hidden a width, or leave norm out"),
        ({"likelihood": "gausian"}, "unknown likelihood 'gausian'"),
        ({"likelihood": likelihoods.Gaussian((3, 3))}, r"built for x_shape \(3, 3\)"),
    ],
)
def test_invalid_options_raise(options, message):
    with pytest.raises(ValueError, match=message):
        HelmholtzMachine(**options)


def test_prior_of_missing_layer_raises():
    model = HelmholtzMachine(x_shape=(4, 3), dims=DIMS)
    for m in (0, 4):
        with pytest.raises(ValueError, match=f"no layer {m}; layers are 1 to 3"):
            model.prior(m, torch.zeros(6, 3))
    with pytest.raises(ValueError, match="layer 2 depends on layer 3: give its value"):
        model.prior(2)


def test_x_of_another_shape_raises():
    with pytest.raises(ValueError, match=r"build it with x_shape=\(1, 8, 8\)"):
        HelmholtzMachine(x_shape=(8, 8))(torch.zeros(5, 1, 8, 8))
