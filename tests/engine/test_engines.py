"""Engines in training: when each starts, and agreement with Pyro and with resumed runs."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import callables as kinds
from pairs.recordable import X, linear
from pyro.infer import Trace_ELBO
from torch import nn

import pvae
from pvae.engine.schedule import SCHEDULES, Schedule


@pytest.fixture
def early(monkeypatch):
    """Let the default engine record and compile after a few steps."""
    monkeypatch.setitem(SCHEDULES, "auto", Schedule(record=3, compile=7))


class VAE(nn.Module):
    """A small version of Pyro's VAE example."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(20, 16), nn.Softplus(), nn.Linear(16, 8))
        self.decoder = nn.Sequential(nn.Linear(4, 16), nn.Softplus(), nn.Linear(16, 20))

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("latent", dist.Normal(x.new_zeros(x.shape[0], 4), 1.0).to_event(1))
            loc = self.decoder(z).sigmoid()
            pyro.sample("obs", dist.Bernoulli(loc, validate_args=False).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", x.shape[0]):
            loc, log_scale = self.encoder(x).chunk(2, -1)
            pyro.sample("latent", dist.Normal(loc, log_scale.exp()).to_event(1))


def train_as_pyros_example(svi_class, steps, **options):
    pyro.set_rng_seed(0)
    with pyro.get_param_store().scope():
        vae = VAE()
        svi = svi_class(
            vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), loss=Trace_ELBO(), **options
        )
        data = torch.rand(200, 20)
        batches = [data[:64], data[64:128], data[128:192], data[192:]]
        return [svi.step(batches[n % 4]) for n in range(steps)], svi


@pytest.mark.parametrize("engine", [pytest.param("auto", marks=pytest.mark.slow), "captured"])
def test_svi_is_a_drop_in_replacement(engine):
    wanted, _ = train_as_pyros_example(pyro.infer.SVI, 500)
    got, svi = train_as_pyros_example(pvae.SVI, 500, engine=engine)
    assert all(isinstance(loss, float) for loss in got)
    torch.testing.assert_close(torch.tensor(got), torch.tensor(wanted), rtol=1e-4, atol=0)
    assert svi.notes == []
    replayed = {"auto": 500 - 2 * 20, "captured": 500 - 2}[engine]
    assert svi.replay.replayed == replayed


def test_auto_is_eager_then_recorded_then_compiled(early):
    net = linear(3, 3)

    def model(x):
        pyro.module("net", net)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(net(x), 1.0).to_event(1), obs=x)

    svi = pvae.SVI(model, lambda x: None, torch.optim.Adam, Trace_ELBO())
    assert svi.engine == "eager: all 0 steps are Pyro's own"
    for _ in range(3):
        svi.step(X)
    assert svi.engine == "eager: all 3 steps are Pyro's own"
    for _ in range(4):
        svi.step(X)
    assert svi.engine == "recorded since step 4: 4 of 7 steps replayed"
    svi.step(X)
    assert svi.engine == "recorded since step 4, compiled since step 8: 5 of 8 steps replayed"
    assert svi.notes == []


@pytest.mark.parametrize("engine", ["recorded", "captured"])
def test_fit_with_engine_matches_eager(engine, tmp_path):
    fits = {
        name: pvae.fit(
            *kinds.make("functions", 0), X, epochs=3, batch_size=40, engine=name, progress=False,
            warmup=2, clip_norm=1.0, out=tmp_path / name,
        )
        for name in ("eager", engine)
    }  # fmt: skip
    losses = [[row["train_loss"] for row in fit.history] for fit in fits.values()]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    how = {"recorded": "recorded", "captured": "compiled"}[engine]
    assert fits[engine].engine == f"{how} since step 2: 7 of 9 steps replayed"


@pytest.mark.parametrize("engine", ["recorded", "captured", "auto"])
def test_resumed_run_with_engine(engine, tmp_path, early):
    options = {"batch_size": 40, "engine": engine, "progress": False}
    whole = pvae.fit(*kinds.make("functions", 0), X, epochs=6, out=tmp_path / "a", **options)
    pvae.fit(*kinds.make("functions", 0), X, epochs=4, out=tmp_path / "b", **options)
    parts = pvae.fit(
        *kinds.make("functions", 0), X, epochs=6, out=tmp_path / "b", resume=True, **options
    )
    losses = [[row["train_loss"] for row in fit.history] for fit in (whole, parts)]
    assert losses[0] == losses[1]
    for name, value in whole.model.pair.parameters().items():
        assert torch.equal(parts.model.pair.parameters()[name], value)


def test_small_run_is_eager():
    fit = pvae.fit(*kinds.make("functions", 0), X, epochs=2, batch_size=40, progress=False)
    assert fit.engine == "eager: all 6 steps are Pyro's own"


def test_resumed_run_keeps_step_counts(tmp_path, early):
    options = {"batch_size": 48, "progress": False, "out": tmp_path / "run"}
    pvae.fit(*kinds.make("functions", 0), X, epochs=1, **options)
    fit = pvae.fit(*kinds.make("functions", 0), X, epochs=3, resume=True, **options)
    assert fit.engine == "recorded since step 4: 3 of 6 steps replayed"
