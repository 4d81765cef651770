"""Running the guide once for all particles matches separate runs, or is not used."""

from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import linear_gaussian as lg
from pairs import callables as kinds
from pairs.recordable import PAIRS, X
from pyro import poutine

import pvae
from pvae.evaluation import EvaluationContext, log_weights
from pvae.evaluation.context import tiled_terms
from pvae.evaluation.log_weights import vectorized_terms
from pvae.evaluation.memory import allowed_bytes, peak_bytes
from pvae.pair.preserve import evaluation_mode

AT_ONCE = {"functions", "methods", "modules", "pyro_modules", "masked", "subsampled", "flow",
           "bernoulli hierarchy", "gaussian hierarchy", "markov"}  # fmt: skip


@pytest.mark.parametrize("name", [n for n in PAIRS if n != "constrained globals"])
def test_vectorized_draws_match_tiled(name):
    torch.manual_seed(0)
    model, guide = PAIRS[name]()
    batch = (X[:7],)
    context = EvaluationContext(model, guide, batch)
    with evaluation_mode(model, guide), torch.no_grad():
        draw = vectorized_terms(context)
        assert (draw is not None) == (name in AT_ONCE)
        if draw is None:
            return
        pyro.set_rng_seed(3)
        at_once = draw(batch, 5)
        pyro.set_rng_seed(3)
        one_by_one = tiled_terms(context, batch, 5)
    assert at_once.local.keys() == one_by_one.local.keys()
    for site, value in one_by_one.local.items():
        torch.testing.assert_close(at_once.local[site], value, rtol=1e-4, atol=1e-4)


def test_inner_and_outer_plates_are_summed():
    def model(x):
        with pyro.plate("outer", 2, dim=-3), pyro.plate("data", len(x), dim=-2):
            with pyro.plate("inner", 3, dim=-1):
                z = pyro.sample("z", dist.Normal(x.new_zeros(4), 1.0).to_event(1))
            with pyro.plate("other inner", 1, dim=-1):
                pyro.sample("x", dist.Normal(z.sum((-1, -2))[..., None], 1.0), obs=x[:, :1])

    def guide(x):
        loc = x[:, :1, None] * torch.ones(4)
        outer, inner = pyro.plate("outer", 2, dim=-3), pyro.plate("inner", 3, dim=-1)
        with outer, pyro.plate("data", len(x), dim=-2), inner:
            pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))

    batch = (X[:5],)
    context = EvaluationContext(model, guide, batch)
    draw = vectorized_terms(context)
    pyro.set_rng_seed(3)
    one_by_one = tiled_terms(context, batch, 6)
    # A plate outside the data plate changes the order of the draws, not their values.
    assert draw is not None
    for site, value in draw(batch, 4000).local.items():
        many = tiled_terms(context, batch, 4000).local[site]
        assert value.shape == (4000, 5)
        torch.testing.assert_close(value.mean(0), many.mean(0), rtol=0.1, atol=0.6)
    assert one_by_one.local["z"].shape == (6, 5)


def test_guide_that_mixes_draws_runs_per_draw():
    """The guide runs with a particle dimension, but averages over it."""

    def guide(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z1", dist.Normal(x[:, 0], 1.0))
            pyro.sample("z2", dist.Normal(z / z.shape[0], 1.0))

    def model(x):
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(x.new_zeros(len(x)), 1.0))
            z2 = pyro.sample("z2", dist.Normal(x.new_zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z1 + z2, 1.0), obs=x[:, 0])

    batch = (X[:7],)
    assert vectorized_terms(EvaluationContext(model, guide, batch)) is None


def test_encoder_runs_once_per_datum(monkeypatch):
    seen = []
    model, guide = kinds.make("functions", 0)

    def counted(x):
        seen.append(len(x))
        return guide(x)

    pvae.log_likelihood(model, counted, X[:20], 500)
    assert max(seen) <= 20
    tried = sum(seen)
    monkeypatch.setattr(log_weights, "vectorized_terms", lambda *given: None)
    seen.clear()
    pvae.log_likelihood(model, counted, X[:20], 500)
    assert sum(seen) > 20 * 500 > 50 * tried / 4


@pytest.mark.parametrize("at_once", [True, False])
def test_memory_below_max_bytes(monkeypatch, at_once):
    if not at_once:
        monkeypatch.setattr(log_weights, "vectorized_terms", lambda *given: None)
    model = pvae.models.VAE(x_shape=(50,), z_dim=2, hidden=100)
    guide = pvae.guides.MeanField(x_shape=(50,), z_dim=2, hidden=100)
    x = torch.rand(30, 50).bernoulli()
    budget = 2**20
    for count in (1, 50, 3000):
        used = peak_bytes(
            lambda count=count: pvae.log_likelihood(model, guide, x, count, max_bytes=budget)
        )
        assert used < 1.3 * budget
        assert used > 0.3 * budget or count == 1


def test_peak_memory_of_live_tensors():
    outside = torch.zeros(100_000)

    def compute():
        outside.add_(1)
        first = torch.zeros(1000)
        second = first + 1
        del first
        third = second.view(10, 100) * 2
        del second
        third.relu_()

    assert peak_bytes(compute) == 8000


def test_blocks_leave_estimate_unchanged():
    x = lg.draw(40)
    whole = pvae.log_likelihood(lg.model, lg.posterior, x, 300)
    parts = pvae.log_likelihood(lg.model, lg.posterior, x, 300, max_bytes=20_000)
    torch.testing.assert_close(whole.per_datum, parts.per_datum, atol=1e-4, rtol=0)


def test_masked_data_in_guide_probe():
    """Without the mask, the guide mixes its draws."""

    def model(x, seen):
        with pyro.plate("data", len(x)), poutine.mask(mask=seen > 0):
            z = pyro.sample("z", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
            w = pyro.sample("w", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z + w[..., None], 1.0).to_event(1), obs=x)

    def guide(x, seen):
        with pyro.plate("data", len(x)), poutine.mask(mask=seen > 0):
            z = pyro.sample("z", dist.Normal(0.3 * x, 0.8).to_event(1))
            loc = z[:, 0]
            if z.dim() > 2:
                loc = loc.mean(-1, keepdim=True).expand(z.shape[:-1])
            pyro.sample("w", dist.Normal(loc, 0.8))

    x, seen = torch.randn(5, 3) + 2, torch.tensor([0, 0, 1, 1, 1])
    for few in ((x, seen), (x[:2], seen[:2])):
        assert vectorized_terms(EvaluationContext(model, guide, few)) is None


def test_allowed_bytes(monkeypatch):
    """A part of a GPU's memory, the same whatever else it holds."""
    properties = SimpleNamespace(total_memory=16 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    assert allowed_bytes(None, torch.device("cuda")) == 2**30
    assert allowed_bytes(None, torch.device("cpu")) == 2**25
    assert allowed_bytes(7, torch.device("cuda")) == 7
