"""What Pyro trains, trains here: pairs of every kind, with Pyro's losses."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from any_pair import STEPS, Row, compare, examine, use
from pairs.kinds import KINDS
from pyro.nn import PyroModule, PyroSample

import pvae

# Pairs of which the quick tests do more than a few steps.
USED = ("planar", "boolean indexing", "AutoNormal", "SS-VAE", "sequences, trimmed")
CAPTURED = ("VAE", "mixture")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", KINDS)
def test_steps(name):
    row = Row(name)
    compare(row, KINDS[name], {"recorded": 5, **({"captured": 4} if name in CAPTURED else {})})
    assert row.failures == []
    assert row.replayed["recorded"] >= 3, row.notes


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", USED)
def test_use(name):
    row = Row(name)
    use(row, KINDS[name], "auto")
    assert row.failures == []


@pytest.mark.parametrize("name", ["planar", "neural_autoregressive"])
def test_measures_of_a_flow_without_an_inverse(name):
    kind = KINDS[name]()
    use = pvae.evaluation.latent_use(kind.model, kind.guide, kind.data[0])
    assert use.information is None
    assert use.divergence["z"].std_error > 0
    with pytest.raises(pvae.UndefinedQuantityError, match="a flow without an inverse"):
        pvae.evaluation.information(kind.model, kind.guide, kind.data[0])
    with pytest.raises(pvae.UndefinedQuantityError, match="cannot be rebuilt"):
        pvae.evaluation.amortization_gap(kind.model, kind.guide, kind.data[0])


def test_one_row_is_the_longest():
    """Without it, the sequences of the batch have fewer sites."""
    kind = KINDS["sequences, trimmed"]()
    x, lengths = torch.randn(24, 6, 1), torch.tensor([6] + [2] * 11 + [5] + [3] * 11)
    data = (x, lengths)
    assert pvae.check(kind.model, kind.guide, x[:12], lengths[:12]).findings == ()
    fit = pvae.fit(
        kind.model, kind.guide, data, epochs=2, batch_size=12, valid=data, progress=False,
        objective="iwae:num_particles=3",
    )  # fmt: skip
    bound = pvae.elbo(fit.model, fit.guide, data, num_particles=20)
    evidence = pvae.log_likelihood(fit.model, fit.guide, data, num_particles=100)
    assert bound.mean < evidence.mean


def test_weight_first_touched_in_a_plate():
    class Model(PyroModule):
        def __init__(self):
            super().__init__()
            self.loc = PyroSample(dist.Normal(torch.zeros(2), 1.0).to_event(1))

        def forward(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(self.loc, 1.0).to_event(1), obs=x)

    def guide(x):
        loc = pyro.param("q_loc", torch.zeros(2))
        with pyro.plate("data", len(x)):
            pyro.sample("loc", dist.Normal(loc + 0.1 * x, 1.0).to_event(1))

    x = torch.randn(24, 2)
    fit = pvae.fit(Model(), guide, x, epochs=2, batch_size=12, valid=x, progress=False)
    bound = pvae.elbo(fit.model, fit.guide, x, num_particles=20)
    evidence = pvae.log_likelihood(fit.model, fit.guide, x, num_particles=100)
    assert bound.mean < evidence.mean


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_everything(name):
    row = examine(name)
    assert row.failures == []
    assert row.replayed["recorded"] > STEPS["recorded"] / 2, row.notes
