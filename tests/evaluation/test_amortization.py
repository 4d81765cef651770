import json

import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import linear_gaussian as lg
from pyro import poutine

import pvae
from pvae.evaluation import amortization_gap

SHIFT = torch.full((lg.Z,), 0.5)
# KL of the posterior shifted by a constant: 0.5 shift' Lambda shift, the same for every datum.
SHIFTED_GAP = 0.5 * (SHIFT @ lg.PRECISION @ SHIFT).item()


def shifted(x):
    with pyro.plate("data", len(x)):
        loc = lg.posterior_loc(x) + SHIFT
        pyro.sample("z", dist.MultivariateNormal(loc, precision_matrix=lg.PRECISION))


def mean_field(x):
    """Gaussians with the posterior's mean and unit scales."""
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(lg.posterior_loc(x), 1.0).to_event(1))


def test_gap_of_shifted_posterior():
    x = lg.draw(20)
    gap = amortization_gap(lg.model, shifted, x)
    assert abs(gap.mean - SHIFTED_GAP) < 4 * gap.mc_error
    assert gap.mc_error < 0.02 * SHIFTED_GAP
    # The family contains the posterior, so the fitted bound is the evidence for any draws.
    assert gap.fitted == pytest.approx(lg.evidence(x).mean().item(), abs=2e-3)
    assert gap.fitted - gap.guide == pytest.approx(gap.mean, abs=1e-4)
    assert gap.per_datum.shape == (20,)
    assert gap.per_datum.tolist() == pytest.approx([SHIFTED_GAP] * 20, rel=0.5)
    assert gap.history.shape == (500,)
    assert gap.history[-50:].mean() > gap.history[:5].mean()


def test_posterior_has_no_gap():
    gap = amortization_gap(lg.model, lg.posterior, lg.draw(10), num_steps=100)
    assert gap.mean == pytest.approx(0.0, abs=2e-3)


def test_mean_field_reaches_best_of_family():
    x = lg.draw(20)
    gap = amortization_gap(lg.model, mean_field, x, num_particles=400)
    best = lg.evidence(x).mean().item() - lg.MEAN_FIELD_GAP
    scale = torch.ones(lg.Z)
    own = 0.5 * (lg.PRECISION.diag() * scale).sum() - 0.5 * lg.Z - 0.5 * lg.PRECISION.logdet()
    assert abs(gap.mean - (own.item() - lg.MEAN_FIELD_GAP)) < 4 * gap.mc_error + 0.01
    assert gap.fitted == pytest.approx(best, abs=0.05)


def test_blocks_of_data_are_fitted_separately(monkeypatch):
    x = lg.draw(9)
    monkeypatch.setattr("pvae.evaluation.EvaluationContext.rows_per_call", lambda *_, **__: 32)
    gap = amortization_gap(lg.model, shifted, x)
    assert abs(gap.mean - SHIFTED_GAP) < 4 * gap.mc_error
    assert gap.fitted == pytest.approx(lg.evidence(x).mean().item(), abs=2e-3)
    assert gap.history[-1].item() == pytest.approx(gap.fitted, abs=2e-3)


def conjugate(x):
    with pyro.plate("data", len(x)):
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0).expand([len(x)]))
        pyro.sample("x", dist.Poisson(rate), obs=x)


def beta_bernoulli(x):
    with pyro.plate("data", len(x)):
        p = pyro.sample("p", dist.Beta(2.0, 2.0))
        pyro.sample("x", dist.Binomial(10, p), obs=x)


@pytest.mark.parametrize(
    ("model", "guide", "posterior"),
    [
        (conjugate, lambda x: dist.Gamma(3.0 + x, 1.5), lambda x: dist.Gamma(2 + x, 2.0)),
        (
            beta_bernoulli,
            lambda x: dist.Beta(3 + x, 3.0),
            lambda x: dist.Beta(2 + x, 12 - x),
        ),
    ],
)
def test_gamma_and_beta_reach_conjugate_posterior(model, guide, posterior):
    def own(x):
        with pyro.plate("data", len(x)):
            pyro.sample("rate" if model is conjugate else "p", guide(x))

    x = torch.tensor([0.0, 1.0, 3.0, 7.0])
    gap = amortization_gap(model, own, x, num_particles=2000)
    exact = torch.distributions.kl_divergence(guide(x), posterior(x)).mean().item()
    assert abs(gap.mean - exact) < 4 * gap.mc_error + 0.005


def test_log_normal_and_masked_sites():
    def model(x):
        with pyro.plate("data", len(x)):
            scale = pyro.sample("scale", dist.LogNormal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(scale.log(), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            q = dist.LogNormal(x / 2 + 0.5, 0.5**0.5).to_event(1)
            pyro.sample("scale", q)

    x = torch.randn(6, 2)
    gap = amortization_gap(model, guide, x, num_particles=500)
    assert abs(gap.mean - 0.5) < 4 * gap.mc_error + 0.005  # 2 x 0.5^2 / (2 x 0.5)

    kept = torch.tensor([True, True, False, False, False, False])

    def masked(program):
        def run(x):
            with poutine.mask(mask=kept.repeat(len(x) // 6 + 1)[: len(x)]):
                program(x)

        return run

    part = amortization_gap(masked(model), masked(guide), x, num_particles=500).per_datum
    assert part[:2].mean() > 0.2
    assert part[2:].abs().max() == 0

    def inner(x):
        with pyro.plate("data", len(x)):
            q = dist.LogNormal(x / 2 + 0.5, 0.5**0.5).to_event(1)
            pyro.sample("scale", q.mask(kept.repeat(len(x) // 6 + 1)[: len(x)]))

    weight = amortization_gap(model, inner, x, num_steps=1, learning_rate=1e-9, num_particles=5)
    torch.testing.assert_close(weight.per_datum, torch.zeros(6), atol=1e-3, rtol=0)


def test_layers_of_hierarchy_are_fitted_independently():
    def model(x):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(x.new_zeros(len(x)), 1.0))
            z1 = pyro.sample("z1", dist.Normal(z2, 1.0))
            pyro.sample("x", dist.Normal(z1, 1.0), obs=x)

    def guide(x):  # the exact posterior in bottom-up order
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(x * 2 / 3, (2 / 3) ** 0.5))
            pyro.sample("z2", dist.Normal(z1 / 2, 0.5**0.5))

    x = torch.linspace(-1, 1, 10)
    gap = amortization_gap(model, guide, x, num_particles=2000)
    # Precision [[2, -1], [-1, 2]] under q(z1) q(z2): 0.5 (sum log Lambda_ii - log det Lambda).
    exact = -0.5 * (2 * torch.tensor(2.0).log() - torch.tensor(3.0).log()).item()
    assert abs(gap.mean - exact) < 4 * gap.mc_error + 0.005


@pytest.mark.parametrize("dim", [-1, -2])
def test_any_data_plate_dim(dim):
    def model(x):
        with pyro.plate("data", len(x), dim=dim), pyro.plate("pixels", 5, dim=-3 - dim):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x.T if dim == -1 else x)

    def guide(x):
        with pyro.plate("data", len(x), dim=dim), pyro.plate("pixels", 5, dim=-3 - dim):
            loc = (x.T if dim == -1 else x) / 2 + 0.5
            pyro.sample("z", dist.Normal(loc, 0.5**0.5))

    x = torch.randn(7, 5)
    gap = amortization_gap(model, guide, x, num_particles=500)
    assert abs(gap.mean - 5 * 0.25) < 4 * gap.mc_error + 0.005
    assert gap.per_datum.shape == (7,)


def test_modules_unchanged():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.Linear(2, 4)

        def forward(self, x):
            pyro.module("model", self)
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(self.net(z), 1.0).to_event(1), obs=x)

    class Guide(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.5))

        def recognize(self, x):
            pyro.module("guide", self)
            loc, raw = self.net(x).chunk(2, -1)
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))

    model, guide = Model(), Guide()
    parameters = [*model.parameters(), *guide.parameters()]
    before = [p.detach().clone() for p in parameters]
    x = torch.randn(12, 4)
    state = torch.get_rng_state()
    gap = amortization_gap(model, guide.recognize, x, num_steps=150, num_particles=2000)
    assert (torch.get_rng_state() == state).all()
    assert gap.mean > 4 * gap.mc_error
    own = pvae.elbo(model, guide.recognize, x, 1000)
    assert gap.guide == pytest.approx(own.mean, abs=5 * own.mc_error)
    assert gap.fitted < pvae.log_likelihood(model, guide.recognize, x, 5000).mean + 0.1
    assert all(p.grad is None for p in parameters)
    assert all((p == old).all() for p, old in zip(parameters, before, strict=True))
    assert guide.net[1].training


def test_unsupported_families_raise():
    def with_site(fn):
        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", fn(x))

        return guide

    def binary(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    x = lg.draw(3)
    zeros = torch.zeros(lg.Z)
    flow = dist.transforms.planar(lg.Z)
    base = dist.Normal(zeros, 1.0).to_event(1)
    with pytest.raises(ValueError, match=r"'z' draws from TransformedDistribution.*as a flow"):
        amortization_gap(
            lg.model, with_site(lambda x: dist.TransformedDistribution(base, [flow])), x
        )
    with pytest.raises(ValueError, match="'z' draws from Bernoulli, which is not reparam"):
        amortization_gap(binary, with_site(lambda x: dist.Bernoulli(0.5)), x[:, 0])
    with pytest.raises(ValueError, match="'z' is a point"):
        amortization_gap(lg.model, with_site(lambda x: dist.Delta(zeros).to_event(1)), x)
    relaxed = dist.RelaxedBernoulli(torch.tensor(0.5), logits=zeros).to_event(1)
    with pytest.raises(ValueError, match="cannot be rebuilt from free parameters"):
        amortization_gap(lg.model, with_site(lambda x: relaxed), x)
    with pytest.raises(ValueError, match="steps is 0"):
        amortization_gap(lg.model, shifted, x, num_steps=0)
    with pytest.raises(ValueError, match="learning_rate is 0"):
        amortization_gap(lg.model, shifted, x, learning_rate=0.0)


def test_json():
    gap = amortization_gap(lg.model, shifted, lg.draw(4), num_steps=2, num_particles=1)
    numbers = json.loads(json.dumps(gap.as_json()))
    assert numbers["num_data"] == 4
    assert numbers["num_steps"] == 2
    assert numbers["mc_error"] is None
