"""Common properties of all objectives: scales, particle layouts, batching, user subclasses."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import callables as kinds
from pairs.recordable import PAIRS, X, assert_same, run
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import nn

import pvae
from pvae import objectives
from pvae.objectives import Objective, PerDatum
from pvae.pair.discovery import reach
from pvae.pair.particles import Particles
from pvae.pair.plate import find_data_plate
from pvae.pair.traces import paired_traces
from pvae.pair.vectorized_guide import vectorized_particles

REPARAMETERIZED = [n for n in PAIRS if n not in ("bernoulli hierarchy",)]

GAUSSIAN = {
    "elbo": lambda: objectives.ELBO(2),
    "analytic": lambda: objectives.ELBO(2, kl="analytic"),
    "free bits": lambda: objectives.ELBO(2, free_bits=0.3),
    "iwae": lambda: objectives.IWAE(3),
    "stl": lambda: objectives.STL(2),
    "dreg": lambda: objectives.DReG(3),
    "vimco": lambda: objectives.VIMCO(3),
    "reinforce": lambda: objectives.REINFORCE(3),
    "wake_sleep": lambda: objectives.WakeSleep(2),
    "rws": lambda: objectives.RWS(3),
    "rws with dreams": lambda: objectives.RWS(3, insomnia=0.5),
}
BERNOULLI = {
    "vimco": lambda: objectives.VIMCO(3),
    "leave one out": lambda: objectives.REINFORCE(3),
    "moving average": lambda: objectives.REINFORCE(2, baseline="moving_average"),
    "network": lambda: objectives.REINFORCE(2, baseline="network", x_shape=(3,)),
    "wake_sleep": lambda: objectives.WakeSleep(2),
    "rws": lambda: objectives.RWS(3, insomnia=0.5),
    "concrete": lambda: objectives.Concrete(3),
}
PAIR_OF = {"gaussian hierarchy": GAUSSIAN, "bernoulli hierarchy": BERNOULLI}
CASES = [(pair, name) for pair, table in PAIR_OF.items() for name in table]


def gradients(objective, model, guide, *batch):
    pyro.set_rng_seed(5)
    with poutine.trace(param_only=True) as seen:
        loss = objective.differentiable_loss(model, guide, *batch)
    leaves = {
        name: site["value"].unconstrained()
        for name, site in seen.trace.nodes.items()
        if site["type"] == "param"
    }
    for name, network in reach({"model": model, "guide": guide}, nn.Module):
        leaves |= {f"{name} {part}": p for part, p in network.named_parameters()}
    found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    return loss.detach(), dict(zip(leaves, found, strict=True))


@pytest.mark.parametrize("name", REPARAMETERIZED)
def test_elbo_matches_pyro(name):
    torch.manual_seed(0)
    model, guide = PAIRS[name]()
    batch = (X[:7],)
    wanted_loss, wanted = gradients(Trace_ELBO(), model, guide, *batch)
    objective = objectives.ELBO()
    objective.prepare(model, guide, *batch)
    loss, found = gradients(objective, model, guide, *batch)
    torch.testing.assert_close(loss, torch.as_tensor(wanted_loss), rtol=1e-5, atol=1e-4)
    assert found.keys() == wanted.keys()
    for parameter, value in wanted.items():
        assert (value is None) == (found[parameter] is None), parameter
        if value is not None:
            torch.testing.assert_close(found[parameter], value, rtol=1e-4, atol=1e-4)


def test_scaled_latent_sites():
    torch.manual_seed(0)
    model, guide = kinds.functions()

    def half(program):
        def run(x):
            with poutine.scale(scale=0.5):
                program(x)

        return run

    objective = objectives.ELBO()
    objective.prepare(model, half(guide), X[:7])
    wanted, _ = gradients(Trace_ELBO(), model, half(guide), X[:7])
    loss, _ = gradients(objective, model, half(guide), X[:7])
    torch.testing.assert_close(loss, torch.as_tensor(wanted), rtol=1e-5, atol=1e-4)


class Fixed(Particles):
    """Particles stored per datum, so that a datum has the same particles in every batch."""

    def propose(self, batch, count, *, at=None, **options):
        if at is None:
            rows = [int((row == X).all(1).nonzero()[0, 0]) for row in batch[0]]
            if not hasattr(self, "all"):
                pyro.set_rng_seed(9)
                self.all = super().propose((X,), count, **options)
            values = {
                name: value[:, rows] if self.all.depth else self._rows_of(value, rows, count)
                for name, value in self.all.values.items()
            }
            at = type(self.all)(self.all.trace, count, self.all.depth, values)
        return super().propose(batch, count, at=at, **options)

    def _rows_of(self, value, rows, count):
        return value.reshape(count, len(X), *value.shape[1:])[:, rows].flatten(0, 1)


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize(("pair_name", "name"), CASES)
def test_bound_independent_of_batch(pair_name, name, at_once, monkeypatch):
    torch.manual_seed(0)
    model, guide = PAIRS[pair_name]()
    objective = PAIR_OF[pair_name][name]()
    # Dreams are drawn for each batch, so a function of the data replaces their term.
    monkeypatch.setattr(
        objectives.wake_sleep, "dream_log_prob", lambda pair, batch, observed: batch[0].sum(1)
    )
    monkeypatch.setattr(
        objectives.reweighted_wake_sleep, "dream_log_prob", lambda pair, batch, _: batch[0].sum(1)
    )
    pair = objective.prepare(model, guide, X[:7])
    assert pair.particles.depth == 1
    depth = 1 if at_once else 0
    fixed = Fixed(pair.model, pair.guide, pair.plate, depth=depth, scaled=True)
    pair = type(pair)(**{**vars(pair), "particles": fixed})
    with torch.no_grad():
        together = objective.estimate(pair, (X[:7],))
        parts = [objective.estimate(pair, (X[where],)) for where in ([0], [1, 2], [3, 4, 5, 6])]
    assert together.value.shape == (7,)
    for field in ("value", "surrogate"):
        if name in ("moving average", "network") and field == "surrogate":
            continue  # the baseline averages over batches
        apart = torch.cat([getattr(part, field) for part in parts])
        torch.testing.assert_close(getattr(together, field), apart, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("pair_name", "name"), CASES)
def test_gradients_equal_in_both_layouts(pair_name, name, monkeypatch):
    torch.manual_seed(0)
    model, guide = PAIRS[pair_name]()
    objective = PAIR_OF[pair_name][name]()
    for module in (objectives.wake_sleep, objectives.reweighted_wake_sleep):
        monkeypatch.setattr(module, "dream_log_prob", lambda pair, batch, observed: batch[0].sum(1))
    pair = objective.prepare(model, guide, X[:7])
    found = []
    for depth in (1, 0):
        particles = Particles(pair.model, pair.guide, pair.plate, depth=depth, scaled=True)
        pair = type(pair)(**{**vars(pair), "particles": particles})
        monkeypatch.setattr(objective, "prepare", lambda *_, pair=pair: pair)
        found.append(gradients(objective, model, guide, X[:7]))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-4, atol=1e-4)
    for parameter, value in found[0][1].items():
        other = found[1][1][parameter]
        assert (value is None) == (other is None), parameter
        # These baselines change with each call.
        if value is not None and name not in ("moving average", "network"):
            torch.testing.assert_close(value, other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("pair_name", "name"), CASES)
def test_recorded_steps_match_eager(pair_name, name):
    make = PAIR_OF[pair_name][name]
    wanted = run(PAIRS[pair_name], "eager", 6, objective=make)
    got = run(PAIRS[pair_name], "recorded", 6, objective=make)
    assert got[3].replay.replayed > 0
    assert not got[3].notes
    assert_same(got, wanted, 1e-4)


@pytest.mark.parametrize("name", ["vimco", "rws"])
def test_captured_steps_match_eager(name):
    make = BERNOULLI[name]
    wanted = run(PAIRS["bernoulli hierarchy"], "eager", 6, objective=make)
    got = run(PAIRS["bernoulli hierarchy"], "captured", 6, objective=make)
    assert "captured" in got[3].replay.since or "compiled" in str(got[3].replay.since)
    assert_same(got, wanted, 1e-3)


def test_plate_larger_than_batch():
    torch.manual_seed(0)
    model, guide = PAIRS["subsampled"]()
    objective = objectives.IWAE(4)
    pair = objective.prepare(model, guide, X[:8])
    pyro.set_rng_seed(3)
    bound = objective.per_datum(model, guide, X[:8])
    pyro.set_rng_seed(3)
    loss = objective.loss(model, guide, X[:8])
    assert pair.plate.full_size == 1000
    assert loss == pytest.approx(-bound.sum().item() * 1000 / 8, rel=1e-5)
    with torch.no_grad():
        exact = pvae.log_likelihood(model, guide, X[:8], num_particles=4).per_datum
    assert abs(bound.mean() - exact.mean()) < 5


def test_more_particles_than_rows():
    decoder = nn.Linear(2, 3)

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", 20, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", 20, subsample_size=len(x)):
            pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(1))

    objective = objectives.IWAE(6)
    objective.prepare(model, guide, X[:8])
    pyro.set_rng_seed(0)
    bound = objective.per_datum(model, guide, X[:8])
    pyro.set_rng_seed(0)
    loss = objective.loss(model, guide, X[:8])
    assert bound.shape == (8,)
    assert loss == pytest.approx(-bound.sum().item() * 20 / 8, rel=1e-5)


def test_global_sites_drawn_once():
    torch.manual_seed(0)
    model, guide = PAIRS["constrained globals"]()
    objective = objectives.IWAE(4)
    pair = objective.prepare(model, guide, X[:7])
    assert pair.particles.depth == 0
    assert pair.global_sites
    draw = pair.particles.draw((X[:7],), 4)
    assert draw.log_weights.shape == (4, 7)
    assert draw.global_terms.shape == ()


class Renyi(Objective):
    """A user-defined objective: the Renyi bound with alpha = 1/2."""

    def estimate(self, pair, batch):
        draw = pair.particles.draw(batch, self.num_particles)
        bound = 2 * ((draw.log_weights / 2).logsumexp(0) - math.log(self.num_particles))
        return PerDatum(bound, bound, draw.global_terms)


def test_user_objective():
    torch.manual_seed(0)
    model, guide = PAIRS["gaussian hierarchy"]()
    fit = pvae.fit(
        model, guide, X, objective=Renyi(3), epochs=30, batch_size=32, learning_rate=0.02,
        engine="recorded", progress=False,
    )  # fmt: skip
    assert not fit.notes
    assert fit.history[-1]["train_loss"] < fit.history[0]["train_loss"]


def test_number_argument_beside_data():
    decoder = nn.Linear(2, 3)

    def model(x, power):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), power).to_event(1), obs=x)

    def guide(x, power):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, :2] * 0, 1.0).to_event(1))

    objective = objectives.IWAE(3)
    assert objective.per_datum(model, guide, X[:5], 0.7).shape == (5,)


def test_non_broadcasting_guide_is_tiled():
    encoder = nn.Linear(3, 2)

    def model(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            z = pyro.sample("z", dist.Normal(a, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x[:, 0])

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("a", dist.Normal(encoder(x), 1.0).to_event(1))
            # Fails or mixes data if z has a particle dimension.
            pyro.sample("z", dist.Normal(z.view(len(x), 2), 1.0).to_event(1))

    plate = find_data_plate(lambda b: paired_traces(model, guide, b), (X[:5],))
    assert vectorized_particles(model, guide, plate, (X[:4],)) is None
    assert objectives.IWAE(3).per_datum(model, guide, X[:5]).shape == (5,)


@pytest.mark.parametrize("engine", ["eager", "recorded"])
def test_named_arguments(engine):
    """Batches may be given by name; the numbers are those of arguments in order."""
    losses = []
    for named in (False, True):
        torch.manual_seed(0)
        with pyro.get_param_store().scope():
            model, guide = kinds.make("functions", 0)
            optim = pyro.optim.SGD({"lr": 1e-3})
            svi = pvae.SVI(model, guide, optim, pvae.objectives.IWAE(3), engine=engine)
            x = kinds.toy_data(12)
            losses.append([svi.step(x=x) if named else svi.step(x) for _ in range(4)])
            losses[-1].append(svi.evaluate_loss(x=x) if named else svi.evaluate_loss(x))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_no_graph_is_held():
    model, guide = kinds.make("functions", 0)
    objective = pvae.objectives.IWAE(3)
    structure = objective.prepare(model, guide, kinds.toy_data(12))
    sites = [*structure.model_trace.nodes.values(), *structure.guide_trace.nodes.values()]
    assert all(site["value"].grad_fn is None for site in sites if site["type"] == "sample")


@pytest.mark.parametrize("make", [objectives.DReG, objectives.STL, objectives.RWS])
def test_used_again_with_new_parameters(make):
    """After the parameter store was cleared, gradients are those of a new objective."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        loc, scale = pyro.param("loc", torch.tensor(START)), pyro.param("scale", torch.tensor(0.8))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc + 0.3 * x, scale))

    START = 0.5
    x, used = torch.linspace(-1.0, 1.0, 6), make(3)
    gradients = []
    for objective in (used, used, make(3)):
        pyro.clear_param_store()
        torch.manual_seed(0)
        objective.prepare(model, guide, x)
        torch.manual_seed(1)
        objective.loss_and_grads(model, guide, x)
        gradients.append([p.grad.clone() for p in pyro.get_param_store()._params.values()])
        START = -1.0
    for got, wanted in zip(gradients[1], gradients[2], strict=True):
        assert torch.equal(got, wanted)
