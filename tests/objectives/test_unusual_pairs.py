"""Pairs on which an estimator could be wrong without a word."""

import math

import pyro
import pyro.distributions as dist
import pyro.distributions.transforms as transforms
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import nn

import pvae
from pvae import objectives
from pvae.objectives import UnsuitableError


def mean_gradient(objective, model, guide, names, *, rows=40_000, x=1.3):
    """Of parameters by name, per datum, over that many data of one value; and its error."""
    found = []
    for seed in range(8):
        pyro.set_rng_seed(seed)
        with poutine.trace(param_only=True) as seen:
            loss = objective.differentiable_loss(model, guide, torch.full((rows,), x))
        leaves = [seen.trace.nodes[name]["value"].unconstrained() for name in names]
        gradients = torch.autograd.grad(loss, leaves)
        found.append(torch.cat([g.reshape(-1) for g in gradients]) / rows)
    each = torch.stack(found)
    return each.mean(0), each.std(0) / math.sqrt(len(found))


def assert_same_gradient(one, other):
    scale = (one[1] ** 2 + other[1] ** 2).sqrt()
    assert (one[0] - other[0]).abs().le(5 * scale + 1e-5).all(), (one, other)


def bernoulli_under(handler):
    def model(x):
        with pyro.plate("data", len(x)), handler():
            z = pyro.sample("z", dist.Bernoulli(x.new_full((len(x),), 0.3)))
        with pyro.plate("rest", len(x)):
            pyro.sample("x", dist.Normal(2 * z, 1.0), obs=x)

    def guide(x):
        logit = pyro.param("logit", torch.tensor(0.2))
        with pyro.plate("data", len(x)), handler():
            pyro.sample("z", dist.Bernoulli(logits=logit.expand(len(x))))

    return model, guide


def exact_bernoulli(x, scale, particles):
    """Minus the bound's derivative by the logit, by enumeration."""
    logit = torch.tensor(0.2, requires_grad=True)
    states = torch.tensor([0.0, 1.0])
    q = dist.Bernoulli(logits=logit).log_prob(states)
    p = dist.Bernoulli(0.3).log_prob(states)
    weight = dist.Normal(2 * states, 1.0).log_prob(torch.tensor(x)) + scale * (p - q)
    bound = torch.zeros(())
    for tuple_ in torch.cartesian_prod(*[torch.arange(2)] * particles).reshape(-1, particles):
        mean = weight[tuple_].logsumexp(0) - math.log(particles)
        bound = bound + q[tuple_].sum().exp() * mean
    (gradient,) = torch.autograd.grad(-bound, logit)
    return gradient


@pytest.mark.parametrize("scale", [0.25, 1.0, 0.0])
def test_scores_do_not_count_less_under_a_scale_or_mask(scale):
    handler = (
        (lambda: poutine.mask(mask=False)) if scale == 0 else lambda: poutine.scale(scale=scale)
    )
    model, guide = bernoulli_under(handler)
    for objective, particles in ((objectives.REINFORCE(2), 1), (objectives.VIMCO(3), 3)):
        got, error = mean_gradient(objective, model, guide, ["logit"])
        wanted = exact_bernoulli(1.3, scale, particles)
        assert abs(got - wanted) < 5 * error + 1e-5, (objective, got, wanted)
        assert error < 0.02 * abs(wanted)


def normal_under(handler):
    def model(x):
        with pyro.plate("data", len(x)):
            with handler():
                z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def guide(x):
        loc = pyro.param("loc", torch.tensor(0.3))
        log_scale = pyro.param("log_scale", torch.tensor(-0.7))
        with pyro.plate("data", len(x)), handler():
            pyro.sample("z", dist.Normal(loc.expand(len(x)), log_scale.exp()))

    return model, guide


@pytest.mark.parametrize("scale", [0.25, 2.0, 0.0])
def test_dreg_is_iwaes_gradient_under_a_scale_or_mask(scale):
    pair = normal_under(lambda: poutine.scale(scale=scale) if scale else poutine.mask(mask=False))
    names = ["loc", "log_scale"]
    assert_same_gradient(
        mean_gradient(objectives.DReG(4), *pair, names),
        mean_gradient(objectives.IWAE(4), *pair, names),
    )


class Whole(nn.Module):
    """Registered in the model alone."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(1, 2)
        self.decoder = nn.Linear(1, 1)

    def model(self, x):
        pyro.module("whole", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z)[..., 0], 0.5), obs=x)

    def guide(self, x):
        loc, log_scale = self.encoder(x[:, None]).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def test_a_network_that_the_model_registers_is_held_constant_in_the_guide_too():
    torch.manual_seed(0)
    pair = Whole()
    names = ["whole$$$encoder.bias", "whole$$$decoder.bias"]
    iwae = mean_gradient(objectives.IWAE(4), pair.model, pair.guide, names)
    assert_same_gradient(mean_gradient(objectives.DReG(4), pair.model, pair.guide, names), iwae)


def test_only_parameters_that_both_depend_on_are_shared():
    torch.manual_seed(0)
    pair = Whole()

    def guide(x):
        pyro.module("whole", pair)
        pair.guide(x)

    assert objectives.WakeSleep().loss(pair.model, guide, torch.randn(5)) > 0

    def tied(x):
        loc = x[:, None] @ pair.decoder.weight
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))

    with pytest.raises(UnsuitableError, match=r"share parameters .*decoder\.weight"):
        objectives.WakeSleep().loss(pair.model, tied, torch.randn(5))


def flow_pair(make):
    encoder, flow = nn.Linear(1, 2), make()

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 0.5), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        pyro.module("flow", flow)
        with pyro.plate("data", len(x)):
            base = dist.Normal(encoder(x[:, None]), 1.0).to_event(1)
            pyro.sample("z", dist.TransformedDistribution(base, [flow]))

    return model, guide


def test_networks_that_run_in_log_prob_are_held_constant():
    torch.manual_seed(0)
    pair = flow_pair(lambda: transforms.affine_coupling(2, hidden_dims=[8]))
    names = ["flow$$$nn.layers.1.bias", "encoder$$$bias"]
    assert_same_gradient(
        mean_gradient(objectives.DReG(3), *pair, names),
        mean_gradient(objectives.IWAE(3), *pair, names),
    )


def test_a_flow_without_an_inverse_can_be_drawn_from_but_not_asked():
    torch.manual_seed(0)
    pair = flow_pair(lambda: transforms.planar(2))
    x = torch.randn(6)
    assert math.isfinite(objectives.IWAE(3).loss(*pair, x))
    for objective in (
        objectives.STL(),
        objectives.DReG(3),
        objectives.RWS(3),
        objectives.WakeSleep(),
    ):
        with pytest.raises(UnsuitableError, match="no inverse"):
            objective.loss(*pair, x)


@pytest.mark.parametrize("steps", [1, 2])
def test_an_outer_plate_of_one_is_the_users(steps):
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            with pyro.plate("time", steps, dim=-2):
                z = pyro.sample("z", dist.Normal(torch.zeros(steps, len(x)), 1.0))
            pyro.sample("x", dist.Normal(z.sum(0), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1), pyro.plate("time", steps, dim=-2):
            pyro.sample("z", dist.Normal(x.expand(steps, -1) / 2 / steps, 0.5))

    x = torch.tensor([1.0, 2.0, 5.0, -3.0])
    torch.manual_seed(0)
    one = torch.stack([objectives.ELBO(1).per_datum(model, guide, x) for _ in range(400)]).mean(0)
    torch.testing.assert_close(
        objectives.ELBO(400).per_datum(model, guide, x), one, atol=0.5, rtol=0
    )
    torch.testing.assert_close(
        pvae.elbo(model, guide, x, num_particles=400).per_datum.float(), one, atol=0.5, rtol=0
    )


def test_a_pair_is_looked_at_again_when_its_modes_change():
    encoder, dropout = nn.Linear(1, 1), nn.Dropout(0.5)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z[..., 0], 1.0), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(dropout(encoder(x[:, None])), 0.1).to_event(1))

    objective = objectives.STL()
    dropout.eval()
    objective.loss(model, guide, torch.randn(20))
    dropout.train()
    with pytest.raises(UnsuitableError, match="dropout"):
        objective.loss(model, guide, torch.randn(20))
    vimco = objectives.VIMCO()
    vimco.num_particles = 1
    with pytest.raises(ValueError, match="at least 2"):
        vimco.loss(model, guide, torch.randn(20))


def test_examining_a_pair_leaves_buffers_as_they_were():
    norm = nn.BatchNorm1d(1)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z[..., 0], 1.0), obs=x)

    def guide(x):
        pyro.module("norm", norm)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(norm(x[:, None]), 0.1).to_event(1))

    objectives.ELBO(3).prepare(model, guide, torch.randn(20))
    assert norm.num_batches_tracked == 0


def test_sizes_of_plates_do_not_depend_on_the_first_batch():
    def model(x):
        with pyro.plate("data", 40, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", 40, subsample_size=len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.5))

    x, objective = torch.randn(40), objectives.ELBO()
    objective.loss(model, guide, x)
    pyro.set_rng_seed(1)
    loss = objective.loss(model, guide, x[:10])
    pyro.set_rng_seed(1)
    assert loss == pytest.approx(Trace_ELBO().loss(model, guide, x[:10]), rel=1e-5)


def latent_mean(x):
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(w, 1.0), obs=x)


def test_auxiliary_sites_have_no_share_of_their_own():
    x = torch.tensor([1.0, 2.0, 0.5])
    guide = AutoNormal(latent_mean)
    guide(x)
    assert math.isfinite(objectives.ELBO(beta=4.0).loss(latent_mean, guide, x))
    for options in ({"sites": ["w"], "beta": 4.0}, {"free_bits": 1.0}):
        with pytest.raises(UnsuitableError, match=r"w_unconstrained.*not known"):
            objectives.ELBO(**options).loss(latent_mean, guide, x)


def test_a_delta_with_a_density_has_no_closed_form():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.LogNormal(x.new_zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", dist.Normal(x / 2, 0.1), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Delta(u.exp(), log_density=-u))

    x = torch.rand(4000)
    analytic = objectives.ELBO(kl="analytic").loss(model, guide, x) / 4000
    assert analytic == pytest.approx(Trace_ELBO().loss(model, guide, x) / 4000, abs=0.05)
    with pytest.raises(UnsuitableError, match=r"\['u', 'z'\].*RWS\(insomnia=1.0\)"):
        objectives.WakeSleep().loss(model, guide, x)


def test_arguments_of_the_same_values_are_not_guessed_between():
    def model(label, counts):
        with pyro.plate("data", len(counts)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(counts)), 1.0))
            pyro.sample("x", dist.Normal(z + label, 1.0), obs=counts.float())

    def guide(label, counts):
        with pyro.plate("data", len(counts)):
            pyro.sample("z", dist.Normal(counts.float(), 1.0))

    zeros = torch.zeros(5, dtype=torch.long)
    with pytest.raises(UnsuitableError, match=r"one of arguments \[0, 1\]"):
        objectives.WakeSleep().loss(model, guide, zeros, zeros.clone())


def test_parameters_of_each_datum_take_one_particle_only():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        loc = pyro.param("loc", torch.zeros(6))
        with pyro.plate("data", 6):
            pyro.sample("z", dist.Normal(loc, 1.0))

    x = torch.randn(6)
    assert math.isfinite(objectives.ELBO().loss(model, guide, x))
    with pytest.raises(UnsuitableError, match=r"follow the size of the batch; or use ELBO"):
        objectives.IWAE(3).loss(model, guide, x)


def test_a_second_baseline_is_trained_as_the_first_was():
    model, guide = bernoulli_under(lambda: poutine.scale(scale=1.0))
    x = torch.randn(64)
    fit = pvae.fit(
        model, guide, x, epochs=1, progress=False,
        objective=objectives.REINFORCE(baseline="network", x_shape=()),
    )  # fmt: skip
    again = objectives.REINFORCE(baseline="network", x_shape=())
    (network,) = again.networks().values()
    before = [p.detach().clone() for p in network.parameters()]
    second = pvae.fit(fit.model, fit.guide, x, epochs=1, progress=False, objective=again)
    assert not any("baseline" in note for note in second.notes)
    after = list(network.parameters())
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_baseline_gives_a_number_for_each_datum():
    model, guide = bernoulli_under(lambda: poutine.scale(scale=1.0))

    class Column(nn.Module):
        def forward(self, x):
            return x[:, None]

    with pytest.raises(ValueError, match=r"shape \(7, 1\) for 7 data: give .* shape \(rows,\)"):
        objectives.REINFORCE(baseline=Column()).loss(model, guide, torch.randn(7))


def test_warmup_is_given_once():
    with pytest.raises(ValueError, match="give it to one"):
        pvae.fit(
            *normal_under(lambda: poutine.scale(scale=1.0)), torch.randn(64), warmup=2, epochs=1,
            objective=objectives.ELBO(warmup=2), progress=False,
        )  # fmt: skip
