"""Pairs for which an objective might silently be wrong or fail."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import nn

import pvae
from pvae import objectives
from pvae.objectives import IncompatibleObjectiveError


def bernoulli():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(x.new_full((len(x),), 0.3)))
            pyro.sample("x", dist.Normal(2 * z, 1.0), obs=x)

    def guide(x):
        logit = pyro.param("logit", torch.tensor(0.2))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=logit.expand(len(x))))

    return model, guide


@pytest.mark.parametrize("steps", [1, 2])
def test_outer_plate_of_one(steps):
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
    objective = objectives.ELBO(400)
    assert objective.prepare(model, guide, x).particles.depth == 2  # no tiling needed
    torch.testing.assert_close(objective.per_datum(model, guide, x), one, atol=0.5, rtol=0)
    torch.testing.assert_close(
        pvae.elbo(model, guide, x, num_particles=400).per_datum.float(), one, atol=0.5, rtol=0
    )


def test_structure_follows_mode():
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
    with pytest.raises(IncompatibleObjectiveError, match="dropout"):
        objective.loss(model, guide, torch.randn(20))
    vimco = objectives.VIMCO()
    vimco.num_particles = 1
    with pytest.raises(ValueError, match="at least 2"):
        vimco.loss(model, guide, torch.randn(20))


def test_buffers_unchanged():
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


def test_plate_sizes_independent_of_first_batch():
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


def test_auxiliary_sites_have_no_term():
    x = torch.tensor([1.0, 2.0, 0.5])
    guide = AutoNormal(latent_mean)
    guide(x)
    losses = []
    for objective in (Trace_ELBO(), *(objectives.ELBO(beta=beta) for beta in (1.0, 2.0, 4.0))):
        pyro.set_rng_seed(0)
        losses.append(objective.loss(latent_mean, guide, x))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[3] - losses[1] == pytest.approx(3 * (losses[2] - losses[1]), rel=1e-4)
    assert abs(losses[2] - losses[1]) > 0.01
    for options in ({"sites": ["w"], "beta": 4.0}, {"free_bits": 1.0}):
        with pytest.raises(
            IncompatibleObjectiveError, match=r"w_unconstrained.*the model does not have"
        ):
            objectives.ELBO(**options).loss(latent_mean, guide, x)


def test_delta_with_density_has_no_analytic_kl():
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
    with pytest.raises(IncompatibleObjectiveError, match=r"\['u', 'z'\].*RWS\(insomnia=1.0\)"):
        objectives.WakeSleep().loss(model, guide, x)


def test_ambiguous_arguments_raise():
    def model(label, counts):
        with pyro.plate("data", len(counts)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(counts)), 1.0))
            pyro.sample("x", dist.Normal(z + label, 1.0), obs=counts.float())

    def guide(label, counts):
        with pyro.plate("data", len(counts)):
            pyro.sample("z", dist.Normal(counts.float(), 1.0))

    zeros = torch.zeros(5, dtype=torch.long)
    with pytest.raises(IncompatibleObjectiveError, match=r"one of arguments \[0, 1\]"):
        objectives.WakeSleep().loss(model, guide, zeros, zeros.clone())


def test_per_datum_parameters_need_one_particle():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        loc = pyro.param("loc", torch.zeros(6))
        with pyro.plate("data", 6):
            pyro.sample("z", dist.Normal(loc, 1.0))

    x = torch.randn(6)
    losses = []
    for objective in (Trace_ELBO(), objectives.ELBO()):
        objective.loss(model, guide, x)
        pyro.set_rng_seed(0)
        losses.append(objective.loss(model, guide, x))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    with pytest.raises(
        IncompatibleObjectiveError, match=r"follow the size of the batch; or use ELBO"
    ):
        objectives.IWAE(3).loss(model, guide, x)


def test_second_baseline_is_trained():
    model, guide = bernoulli()
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


def test_baseline_shape_raises():
    model, guide = bernoulli()

    class Column(nn.Module):
        def forward(self, x):
            return x[:, None]

    with pytest.raises(ValueError, match=r"shape \(7, 1\) for 7 data: return .* shape \(rows,\)"):
        objectives.REINFORCE(baseline=Column()).loss(model, guide, torch.randn(7))


def test_warmup_given_twice_raises():
    with pytest.raises(ValueError, match="give it to one"):
        pvae.fit(
            *bernoulli(), torch.randn(64), warmup=2, epochs=1,
            objective=objectives.ELBO(warmup=2), progress=False,
        )  # fmt: skip
