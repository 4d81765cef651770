"""Incompatible combinations raise an error with the reason and the nearest alternative."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs.recordable import PAIRS, X
from torch import nn

import pvae
from pvae import objectives
from pvae.objectives import IncompatibleObjectiveError


def sharing():
    both = nn.Linear(3, 3)

    def model(x):
        pyro.module("both", both)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(both(z), 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("both", both)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(both(x), 1.0).to_event(1))

    return model, guide


def dropping():
    model, guide = sharing()
    dropout = nn.Dropout(0.5)
    return model, lambda x: guide(dropout(x))


def transforming():
    _, guide = sharing()
    own = nn.Linear(3, 3)

    def transformed(x):
        pyro.module("own", own)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(own(z), 1.0).to_event(1), obs=2 * x)

    return transformed, guide


def looping():
    def model(x):
        for i in pyro.plate("data", len(x)):
            z = pyro.sample(f"z{i}", dist.Normal(0.0, 1.0))
            pyro.sample(f"x{i}", dist.Normal(z, 1.0), obs=x[i, 0])

    def guide(x):
        for i in pyro.plate("data", len(x)):
            pyro.sample(f"z{i}", dist.Normal(x[i, 0], 1.0))

    return model, guide


def without_a_plate():
    def model(x):
        z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x[:, 0])

    return model, lambda x: pyro.sample("z", dist.Normal(x[:, 0], 1.0).to_event(1))


def summed_out():
    model, guide = sharing()

    def further(x):
        with pyro.plate("more", len(x)):
            pyro.sample("y", dist.Bernoulli(0.5))
        model(x)

    return further, guide


def integers():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(x.new_ones(2)))
            pyro.sample("x", dist.Normal(z.float(), 1.0), obs=x[:, 0])

    def guide(x):
        logits = pyro.param("logits", torch.zeros(2))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Categorical(logits=logits))

    return model, guide


def discrete_globals():
    def model(x):
        w = pyro.sample("w", dist.Bernoulli(0.5))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z + w, 1.0), obs=x[:, 0])

    def guide(x):
        pyro.sample("w", dist.Bernoulli(0.3))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, 0], 1.0))

    return model, guide


bernoulli, globals_ = PAIRS["bernoulli hierarchy"], PAIRS["constrained globals"]
WRONG = [
    (objectives.ELBO(), bernoulli, r"ELBO .*\['z1', 'z2'\] .*Bernoulli.*use REINFORCE"),
    (objectives.IWAE(), bernoulli, "IWAE .*use VIMCO, or RWS"),
    (objectives.STL(), bernoulli, "STL .*use REINFORCE"),
    (objectives.DReG(), bernoulli, "DReG .*use VIMCO"),
    (objectives.Concrete(), integers, "Categorical.*use OneHotCategorical"),
    (objectives.STL(), dropping, "dropout.*use ELBO or IWAE"),
    (objectives.DReG(), dropping, "dropout.*use ELBO or IWAE"),
    (objectives.DReG(), globals_, "are global: use IWAE"),
    (objectives.WakeSleep(), globals_, "are global: use ELBO"),
    (objectives.RWS(), globals_, "are global: use VIMCO"),
    (objectives.WakeSleep(), sharing, r"'both.bias', 'both.weight'\): use ELBO"),
    (objectives.RWS(), sharing, "share parameters.*use VIMCO, or IWAE"),
    (objectives.WakeSleep(), transforming, "'x' observes no argument"),
    (objectives.RWS(insomnia=0.5), transforming, "'x' observes no argument"),
    (objectives.IWAE(), looping, "plate 'data' is a loop.*Trace_ELBO"),
    (objectives.IWAE(), without_a_plate, "no plate of 7 elements.*Trace_ELBO"),
    (objectives.ELBO(), summed_out, r"\['y'\].*TraceEnum_ELBO"),
    (objectives.REINFORCE(), discrete_globals, r"global sites, and \['w'\].*Trace_ELBO"),
    (objectives.ELBO(sites=["u"]), sharing, r"\['u'\]: the model's latent sites are \['z'\]"),
]


@pytest.mark.parametrize(("objective", "make", "said"), WRONG)
def test_incompatible_objective_raises(objective, make, said):
    with pytest.raises(IncompatibleObjectiveError, match=said):
        objective.loss(*make(), X[:7])


def test_weighted_draws_need_no_dreams():
    own, guide = transforming()
    assert objectives.RWS(insomnia=1.0).per_datum(own, guide, X[:7]).shape == (7,)


def test_dropout_in_eval_mode():
    model, guide = dropping()
    for cell in guide.__closure__:
        if isinstance(cell.cell_contents, nn.Dropout):
            cell.cell_contents.eval()
    assert objectives.STL().per_datum(model, guide, X[:7]).shape == (7,)


def test_scalar_data_raise():
    model, guide = sharing()
    with pytest.raises(
        IncompatibleObjectiveError, match=r"x of shape \(rows, ...\).*not a tensor of shape"
    ):
        objectives.IWAE().loss(model, guide, torch.tensor(1.0))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: objectives.IWAE(0), "num_particles=0: it needs at least 1"),
        (lambda: objectives.VIMCO(1), "at least 2"),
        (lambda: objectives.RWS(1), "at least 2"),
        (lambda: objectives.RWS(insomnia=1.5), "insomnia is 1.5.*from 0 to 1"),
        (lambda: objectives.ELBO(kl="exact"), "kl is 'exact': give one of monte_carlo, analytic"),
        (lambda: objectives.ELBO(beta=-1), "beta is -1"),
        (lambda: objectives.ELBO(beta=1e39), "beta is 1e\\+39"),
        (lambda: objectives.ELBO(free_bits=float("nan")), "free_bits is nan"),
        (lambda: objectives.ELBO(free_bits_over="site"), "give one of datum, batch"),
        (lambda: objectives.REINFORCE(baseline="mean"), "unknown baseline 'mean'"),
        (lambda: objectives.REINFORCE(baseline="leave_one_out"), "num_particles=2 or more"),
        (lambda: objectives.REINFORCE(baseline="network"), "give x_shape="),
        (lambda: objectives.Concrete(temperature=0.0), "temperature is 0.0"),
        (lambda: objectives.get("iwea"), "unknown objective 'iwea'; nearest: 'iwae'"),
        (lambda: objectives.get("vimco", particles=3), r"its options are \['num_particles'\]"),
    ],
)
def test_options_out_of_range_raise(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_fit_and_check_raise_before_first_step():
    said = r"IWAE needs reparameterized draws.* use VIMCO"
    model, guide = bernoulli()
    with pytest.raises(pvae.checking.PairError, match=said):
        pvae.check(model, guide, X[:7], objective=objectives.IWAE())
    with pytest.raises(pvae.checking.PairError, match=said):
        pvae.fit(model, guide, X, objective=objectives.IWAE(), epochs=1, progress=False)


@pytest.mark.parametrize("objective", [objectives.WakeSleep(), objectives.RWS()])
def test_wake_sleep_warmup_raises(objective):
    with pytest.raises(ValueError, match="warmup scales single sites"):
        pvae.fit(*bernoulli(), X, objective=objective, warmup=2, epochs=1, progress=False)
