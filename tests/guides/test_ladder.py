"""The ladder: products of Gaussians, an exact posterior, networks shared with the model."""

import json
import math

import numpy as np
import pyro
import pytest
import torch
from click.testing import CliRunner
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from torch.distributions import Normal

import pvae
from pvae.cli import main
from pvae.guides import Ladder
from pvae.models import VAE, HelmholtzMachine

DIMS = (4, 3, 2)


@pytest.fixture(autouse=True)
def own_parameters():
    torch.manual_seed(0)
    with pyro.get_param_store().scope(), pyro.validation_enabled():
        yield


class NoModule:
    """Has the methods of a Gaussian path, but is no module."""

    x_shape, dims = (5, 2), DIMS

    def prior(self, m, above=None):
        raise NotImplementedError


def pair(**network):
    model = HelmholtzMachine(x_shape=(5, 2), dims=DIMS, **network)
    return model, Ladder(model, **network)


def data(n=40):
    return torch.randint(0, 2, (n, 5, 2)).float()


def raw(scale):
    """The inverse of `positive`."""
    return math.log(math.expm1(scale - 1e-5)) - math.log(math.expm1(1 - 1e-5))


def set_linear(linear, weight, bias):
    with torch.no_grad():
        linear.weight.copy_(torch.tensor(weight).reshape(-1, 1))
        linear.bias.copy_(torch.tensor(bias))


def test_layers_are_products_of_evidence_and_prior():
    model, guide = pair(hidden=6)
    x = data(7)
    trace = poutine.trace(guide).get_trace(x)
    evidence = guide.evidence(x)
    top = trace.nodes["z3"]["fn"].base_dist
    torch.testing.assert_close((top.loc, top.scale), evidence[2])
    for m in (2, 1):
        (loc, scale), q = evidence[m - 1], trace.nodes[f"z{m}"]["fn"].base_dist
        prior = model.prior(m, trace.nodes[f"z{m + 1}"]["value"]).base_dist
        precision = scale**-2 + prior.scale**-2
        torch.testing.assert_close(q.scale, precision**-0.5)
        torch.testing.assert_close(
            q.loc, (loc * scale**-2 + prior.loc * prior.scale**-2) / precision
        )
        # Also by densities: the product divided by q is constant in z.
        points = torch.linspace(-2, 2, 5)[:, None, None]
        factors = Normal(loc, scale).log_prob(points) + prior.log_prob(points)
        ratio = factors - q.log_prob(points)
        torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-4, atol=1e-4)
    sites = [name for name in trace.nodes if name in ("z1", "z2", "z3")]
    assert sites == ["z3", "z2", "z1"]
    assert trace.nodes["_RETURN"]["value"] is trace.nodes["z1"]["value"]


def test_exact_posterior_of_linear_hierarchy():
    # z2 ~ N(0, 1), z1 ~ N(0.7 z2 + 0.2, 0.6^2), x ~ N(1.5 z1 - 0.4, 1)
    slope, shift, scale, weight, bias = 0.7, 0.2, 0.6, 1.5, -0.4
    model = HelmholtzMachine(x_shape=(1,), dims=(1, 1), likelihood="gaussian")
    guide = Ladder(model)
    set_linear(model.layers[0].layers[0], [slope, 0.0], [shift, raw(scale)])
    set_linear(model.decoder[0].layers[0], [weight], [bias])
    set_linear(guide.heads[0], [1 / weight, 0.0], [-bias / weight, raw(1 / weight)])
    noise = weight**2 * scale**2 + 1  # variance of p(x | z2)
    precision = 1 + (weight * slope) ** 2 / noise
    gain = weight * slope / noise / precision
    offset = -gain * (weight * shift + bias)
    set_linear(guide.heads[1], [gain, 0.0], [offset, raw(precision**-0.5)])
    x = 2 * torch.randn(50, 1)
    evidence = Normal(weight * shift + bias, math.sqrt(noise + (weight * slope) ** 2))
    found = pvae.log_likelihood(model, guide, x, num_particles=3)
    torch.testing.assert_close(found.per_datum, evidence.log_prob(x)[:, 0], rtol=1e-4, atol=1e-4)
    assert found.mc_error < 1e-4
    bound = pvae.elbo(model, guide, x).mean
    assert bound == pytest.approx(evidence.log_prob(x).mean().item(), abs=1e-3)


def test_no_evidence_gives_priors():
    model, guide = pair(hidden=6)
    with torch.no_grad():
        for head, dim in zip(guide.heads[:-1], DIMS, strict=False):
            head.bias[dim:] = 1e6
        guide.heads[-1].weight.mul_(100)
    use = pvae.evaluation.latent_use(model, guide, data())
    assert all(use.divergence[site].analytic for site in ("z1", "z2", "z3"))
    assert abs(use.divergence["z1"].mean) < 1e-4
    assert abs(use.divergence["z2"].mean) < 1e-4
    assert use.divergence["z3"].mean > 0.1
    assert set(use.collapsed) == {"z1", "z2"}
    assert "site 'z1' has collapsed" in use.sentence


def test_extreme_scales_stay_finite():
    model, guide = pair()
    for extreme in (-1e4, 1e4):
        with torch.no_grad():
            for head, dim in zip(guide.heads, DIMS, strict=True):
                head.bias[dim:] = extreme
        loss = Trace_ELBO().differentiable_loss(model, guide, data())
        gradients = torch.autograd.grad(loss, list(guide.parameters()))
        assert loss.isfinite()
        assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize(
    "network", [{"hidden": ()}, {"hidden": 6, "norm": "batch"}, {"hidden": 6, "norm": "weight"}]
)
def test_leading_dimensions_are_tiled_rows(network):
    model, guide = pair(**network)
    model.eval(), guide.eval()
    x = data(6)
    elbo = Trace_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=1)
    ((_, trace),) = elbo._get_traces(model, guide, (x,), {})
    trace.compute_log_prob()
    sites = ("z1", "z2", "z3")
    values = {site: trace.nodes[site]["value"].flatten(0, 1) for site in sites}
    tiled = poutine.trace(poutine.condition(guide, values)).get_trace(x.repeat(4, 1, 1))
    tiled.compute_log_prob()
    for site in sites:
        found = trace.nodes[site]["log_prob"].flatten(0, 1)
        torch.testing.assert_close(found, tiled.nodes[site]["log_prob"], rtol=1e-4, atol=1e-4)


def test_guide_excludes_model_parameters():
    model, guide = pair(hidden=6, norm="batch")
    own = {id(p) for p in guide.parameters()}
    assert not own & {id(p) for p in model.parameters()}
    assert not any(part is model for part in guide.modules())
    names = set(poutine.trace(guide).get_trace(data()).param_nodes)
    expected = {f"model$$${name}" for name, _ in model.named_parameters()}
    assert names == expected | {f"guide$$${name}" for name, _ in guide.named_parameters()}
    model(data())
    assert set(pyro.get_param_store().keys()) == names


def test_pyro_svi_trains_both_programs():
    model, guide = pair(hidden=6)
    before = [p.detach().clone() for p in (*model.parameters(), *guide.parameters())]
    SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO()).step(data())
    after = [*model.parameters(), *guide.parameters()]
    assert all((a != b).any() for a, b in zip(after, before, strict=True))


@pytest.mark.parametrize(
    ("norm", "engine"),
    [
        (None, "recorded"),
        ("batch", "recorded"),
        ("weight", "recorded"),
        pytest.param("batch", "captured", marks=pytest.mark.slow),
    ],
)
def test_replayed_steps_match_pyro(norm, engine):
    losses = {}
    for way in ("eager", engine):
        torch.manual_seed(0)
        model, guide = pair(hidden=6, norm=norm)
        options = {"epochs": 3, "batch_size": 20, "engine": way, "progress": False}
        fit = pvae.fit(model, guide, data(), **options)
        losses[way] = [row["train_loss"] for row in fit.history]
        assert ("steps replayed" in fit.engine) == (way == engine), fit.engine
    assert losses[engine] == pytest.approx(losses["eager"], rel=1e-4)


def test_evaluation_in_eval_mode():
    model, guide = pair(hidden=6, norm="batch")
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    whole = pvae.infer(guide, data(40))
    torch.manual_seed(0)
    rows = data(40)
    one, all_rows = pvae.infer(guide, rows[:1]), pvae.infer(guide, rows)
    torch.testing.assert_close(one["z1"], all_rows["z1"][:1])
    assert whole["z1"].shape == (40, 4)
    assert model.training
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name]), name


def test_run_reports_layers_and_loads(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("mine.npz", train=data(60).numpy(), test=data(20).numpy())

    def command(*arguments):
        result = CliRunner().invoke(main, list(arguments))
        assert result.exit_code == 0, result.output
        return result.stdout

    settings = ("dims=[5,4,3,2]", "hidden=6", "norm=batch")
    options = [part for setting in settings for part in ("--set", setting)]
    few = ("--epochs", "2", "--particles", "5", "--no-progress", "--out", "run")
    said = command("train", "helmholtz", "ladder", "--data", "mine.npz", *options, *few)
    for m in (1, 2, 3, 4):
        assert f"KL(q || p) of z{m}" in said
    found = json.loads(command("evaluate", "run", "--particles", "5", "--json"))
    assert list(found["latent_use"]["kl"]) == ["z4", "z3", "z2", "z1"]
    divergence = sum(site["mean"] for site in found["latent_use"]["kl"].values())
    terms = {name: value for name, value in found["sites"].items() if name != "x"}
    errors = [site["mc_error"] for site in found["latent_use"]["kl"].values()]
    error = (found["elbo"]["mc_error"] ** 2 + sum(e**2 for e in errors)) ** 0.5
    assert error < 0.2
    assert divergence == pytest.approx(-sum(terms.values()), abs=4 * error)
    loaded = pvae.load("run")
    assert loaded.guide.fn._generative[0] is loaded.model.fn
    assert list(loaded.model.pair.networks) == ["model", "guide"]


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (
            HelmholtzMachine(x_shape=(5, 2), dims=DIMS, latent="bernoulli"),
            ValueError,
            "are 'bernoulli': use the guide BottomUp",
        ),
        (VAE(x_shape=(5, 2), z_dim=2, hidden=3), TypeError, "VAE has no dims: use the mod"),
        (lambda x: x, TypeError, "function has no x_shape, dims, prior"),
        (NoModule(), TypeError, "NoModule is no torch.nn.Module"),
    ],
)
def test_model_without_gaussian_path_raises(model, error, message):
    with pytest.raises(error, match=message):
        Ladder(model)


def test_x_of_another_shape_raises():
    _, guide = pair()
    with pytest.raises(ValueError, match=r"x_shape \(5, 2\)"):
        guide(torch.zeros(5, 10))
