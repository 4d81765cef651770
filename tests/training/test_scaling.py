"""The scale of each site in a minibatch."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import callables as kinds
from pyro.infer import Trace_ELBO
from torch.utils.data import IterableDataset

import pvae


def fit(model, guide, data, **options):
    options = {"progress": False, "batch_size": min(50, len(data))} | options
    return pvae.fit(model, guide, data, **options)


X = torch.randn(30, generator=torch.Generator().manual_seed(3)) + 2.0
PRIOR = 4.0


def exact_posterior(x):
    """The posterior mean and precision of w ~ N(0, 1 / PRIOR) with x_n ~ N(w, 1)."""
    precision = PRIOR + len(x)
    return (x.sum() / precision).item(), precision**-0.5


def global_guide(x):
    loc = pyro.param("loc", torch.zeros(()))
    scale = pyro.param("scale", torch.ones(()), constraint=dist.constraints.positive)
    pyro.sample("w", dist.Normal(loc, scale))


def plain_plate(x):
    w = pyro.sample("w", dist.Normal(0.0, PRIOR**-0.5))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(w, 1.0), obs=x)


def sized_plate(x):
    w = pyro.sample("w", dist.Normal(0.0, PRIOR**-0.5))
    with pyro.plate("data", 30, subsample_size=len(x)):
        pyro.sample("x", dist.Normal(w, 1.0), obs=x)


@pytest.mark.parametrize("model", [plain_plate, sized_plate])
@pytest.mark.parametrize("batch_size", [30, 7])
def test_global_sites_count_once(model, batch_size):
    options = {"epochs": 300 if batch_size == 30 else 120, "learning_rate": 0.05}
    halve = {
        "scheduler": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, options["epochs"])
    }
    objective = Trace_ELBO(num_particles=20, vectorize_particles=True, max_plate_nesting=1)
    trained = fit(
        model, global_guide, X, batch_size=batch_size, objective=objective, **options, **halve
    )
    params = {k: v.detach() for k, v in trained.guide.pair.parameters().items()}
    loc, scale = exact_posterior(X)
    assert params["loc"].item() == pytest.approx(loc, abs=0.04)
    assert params["scale"].exp().item() == pytest.approx(scale, rel=0.1)


@pytest.mark.parametrize("model", [plain_plate, sized_plate])
def test_loss_in_nats_per_datum(model):
    """With the exact posterior, every draw yields the evidence, so the loss has no noise."""
    loc, scale = exact_posterior(X)

    def posterior(x):
        shift = pyro.param("shift", torch.zeros(()))
        pyro.sample("w", dist.Normal(loc + shift, scale))

    trained = fit(model, posterior, X, batch_size=30, epochs=1)
    covariance = torch.eye(30) + torch.ones(30, 30) / PRIOR
    evidence = dist.MultivariateNormal(torch.zeros(30), covariance).log_prob(X).item()
    assert trained.history[0]["train_loss"] == pytest.approx(-evidence / 30, abs=1e-4)


def test_plate_of_another_size_noted():
    trained = fit(sized_plate, global_guide, X[:20], epochs=1, batch_size=10)
    (note,) = trained.notes
    assert "plate 'data' has size 30, and the data have 20 rows" in note


def test_short_last_batch():
    def model(x):
        loc = pyro.param("loc", torch.zeros(()))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    trained = fit(model, lambda x: None, X, batch_size=7, epochs=1, learning_rate=1e-9)
    exact = -dist.Normal(0.0, 1.0).log_prob(X).mean().item()
    assert trained.history[0]["train_loss"] == pytest.approx(exact, abs=1e-5)


def test_pair_without_plate_noted():
    def model(x):
        loc = pyro.param("loc", torch.zeros(()))
        pyro.sample("x", dist.Normal(loc, 1.0).expand(x.shape).to_event(1), obs=x)

    trained = fit(model, lambda x: None, X, epochs=300, batch_size=30, learning_rate=0.05)
    (loc,) = trained.model.pair.parameters().values()
    assert loc.item() == pytest.approx(X.mean().item(), abs=1e-3)
    assert "no plate of size len(batch)" in trained.notes[0]


def test_warmup_scales_latent_sites():
    model, guide = kinds.make("functions", 0)
    x = kinds.toy_data()
    objective = Recording()
    trained = fit(model, guide, x, epochs=4, batch_size=96, warmup=3, objective=objective)
    assert [row["beta"] for row in trained.history] == [0.25, 0.5, 0.75, 1.0]
    for beta, scales in zip([0.25, 0.5, 0.75, 1.0], objective.scales[-4:], strict=True):
        assert scales == {("model", "z"): beta, ("model", "x"): 1.0, ("guide", "z"): beta}


class Recording(Trace_ELBO):
    """Records the scale of each site, once per step."""

    def __init__(self):
        super().__init__()
        self.scales = []

    def _get_trace(self, model, guide, args, kwargs):
        traces = super()._get_trace(model, guide, args, kwargs)
        self.scales.append(
            {
                (role, name): float(site["scale"])
                for role, trace in zip(("model", "guide"), traces, strict=True)
                for name, site in trace.nodes.items()
                if site["type"] == "sample"
            }
        )
        return traces


def test_stream_without_size_raises():
    class Numbers(IterableDataset):
        def __iter__(self):
            generator = torch.Generator().manual_seed(0)
            while True:
                yield torch.randn((), generator=generator)

    options = {"steps_per_epoch": 3, "batch_size": 4, "epochs": 1, "progress": False}
    with pytest.raises(ValueError, match=r"\['w'\] are global.*data_size="):
        pvae.fit(plain_plate, global_guide, Numbers(), **options)
    assert pvae.fit(plain_plate, global_guide, Numbers(), data_size=1000, **options).history
