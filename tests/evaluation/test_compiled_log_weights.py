"""Compiled estimates match, or are not used."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import callables as kinds
from pairs.recordable import X

import pvae
from pvae.evaluation import compiled_log_weights


@pytest.fixture
def soon(monkeypatch):
    """Compile from the third block of a shape on, and return the list of compiled graphs."""
    made = []
    compiled_as_ever = compiled_log_weights.compile_recording
    monkeypatch.setattr(compiled_log_weights, "_ENOUGH", 3)

    def noted(*given):
        made.append(compiled_as_ever(*given))
        return made[-1]

    monkeypatch.setattr(compiled_log_weights, "compile_recording", noted)
    return made


def test_compiled_estimate_matches(soon):
    model, guide = kinds.make("functions", 0)
    given = {"num_particles": 1001, "seed": 4, "max_bytes": 40_000}
    fast = pvae.log_likelihood(model, guide, X[:4], **given)
    assert [graph.how for graph in soon] == ["compiled"] * len(soon)
    assert soon
    few = compiled_log_weights._ENOUGH
    compiled_log_weights._ENOUGH = 10**9
    slow = pvae.log_likelihood(model, guide, X[:4], **given)
    compiled_log_weights._ENOUGH = few
    torch.testing.assert_close(fast.per_datum, slow.per_datum, atol=1e-4, rtol=0)
    torch.testing.assert_close(fast.ess, slow.ess, atol=0.1, rtol=1e-3)


def test_differing_graph_is_not_used(soon, monkeypatch):
    """A program that counts its calls returns another result each time."""
    calls = []

    def model(x):
        calls.append(1)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0 + len(calls)), obs=x[:, 0])

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, 0], 1.0))

    before = len(calls)
    pvae.log_likelihood(model, guide, X[:4], 3000, max_bytes=4000)
    assert soon
    assert len(calls) - before > 100


def test_unrecordable_pair_runs_eagerly(soon):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
            scale = 1.0 if z.mean() > -100 else 2.0
            pyro.sample("x", dist.Normal(z, scale), obs=x[:, 0])

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, 0] / 2, 0.5**0.5))

    estimate = pvae.log_likelihood(model, guide, X[:4], 1000, max_bytes=4000)
    assert not soon
    exact = dist.Normal(0.0, 2**0.5).log_prob(X[:4, 0])
    torch.testing.assert_close(estimate.per_datum, exact, atol=1e-4, rtol=0)


@pytest.mark.parametrize("num_particles", [1, 50])
def test_data_outside_support_raise(num_particles):
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Bernoulli(0.5).expand([3]).to_event(1), obs=x)

    x = torch.zeros(40, 3)
    x[37, 1] = 0.5
    with pytest.raises(ValueError, match="within the support"):
        pvae.log_likelihood(model, lambda x: None, x, num_particles, max_bytes=2000)
