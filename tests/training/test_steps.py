"""What a step of `fit` is: of several batches, and none if its loss or gradient is not finite."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import callables as kinds
from torch import nn

import pvae

X = kinds.toy_data()


def fit(model, guide, x=X, **options):
    options = {"epochs": 3, "progress": False, "learning_rate": 0.05, **options}
    return pvae.fit(model, guide, x, **options)


def values(fitted):
    return torch.cat([p.detach().flatten() for p in fitted.model.pair.parameters().values()])


def point_masses():
    """A pair without random numbers, with a local and a global site."""
    encoder = nn.Linear(3, 1)

    def model(x):
        w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z[:, None] * w, 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        loc = pyro.param("loc", torch.ones(3))
        pyro.sample("w", dist.Delta(loc, event_dim=1))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(encoder(x)[:, 0]))

    return model, guide


@pytest.mark.parametrize("engine", ["eager", "recorded"])
@pytest.mark.parametrize("clip_norm", [None, 0.5])
def test_accumulated_batches_are_one_large_batch(engine, clip_norm):
    """Of 96 rows the last batch of 20 has 16, and the last group of three of these has two."""
    found = []
    for size, accumulate in ((60, 1), (20, 3)):
        torch.manual_seed(0)
        options = {"batch_size": size, "accumulate": accumulate, "clip_norm": clip_norm}
        found.append(fit(*point_masses(), engine=engine, **options))
    torch.testing.assert_close(values(found[0]), values(found[1]), rtol=1e-5, atol=1e-6)
    assert [row["step"] for row in found[1].history] == [2, 4, 6]
    for large, small in zip(found[0].history, found[1].history, strict=True):
        assert small["train_loss"] == pytest.approx(large["train_loss"], rel=1e-5)


def test_accumulated_batches_of_a_sized_plate():
    """A program that scales by N / len(batch) itself gets the mean of its batches' gradients."""
    found = []
    for size, accumulate in ((48, 1), (24, 2)):
        model, guide = sized_plate()
        found.append(fit(model, guide, batch_size=size, accumulate=accumulate))
    torch.testing.assert_close(values(found[0]), values(found[1]), rtol=1e-5, atol=1e-6)


def sized_plate():
    def model(x):
        w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        with pyro.plate("data", len(X), subsample=torch.arange(len(x))):
            pyro.sample("x", dist.Normal(w, 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.sample("w", dist.Delta(pyro.param("loc", torch.ones(3)), event_dim=1))

    return model, guide


def with_batch_norm():
    encoder = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z[:, None].expand(-1, 3), 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(encoder(x)[:, 0], 1.0))

    return model, guide, encoder


@pytest.mark.parametrize("engine", ["eager", "recorded", "captured"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_skipped_steps_change_nothing(engine, accumulate):
    """A row whose density overflows spoils one step of each epoch, and no number of the others."""
    torch.manual_seed(0)
    x = X.clone()
    x[7] = 1e30
    model, guide, encoder = with_batch_norm()
    options = {"batch_size": 12, "accumulate": accumulate, "on_nan": "skip", "engine": engine}
    found = fit(model, guide, x, **options)
    assert [row["skipped"] for row in found.history] == [1, 1, 1]
    assert found.notes[-1].startswith(f"3 of {24 // accumulate} steps were skipped")
    assert all(row["train_loss"] < 20 for row in found.history)
    assert torch.isfinite(values(found)).all()
    assert all(b.abs().max() < 100 for b in encoder.buffers())


def test_a_gradient_that_is_not_finite_is_skipped():
    """The loss is finite, and the derivative of the square root at 0 is not."""

    def model(x):
        loc = pyro.param("loc", torch.zeros(()))
        rare = torch.where(x.max() > 10, loc - loc.detach(), torch.ones(()))
        with pyro.plate("data", len(x)):
            fn = dist.Normal(loc + 0 * rare.sqrt(), 1.0).expand([len(x), 3])
            pyro.sample("x", fn.to_event(1), obs=x)

    x = X.clone()
    x[7] = 11.0
    found = fit(model, lambda x: None, x, batch_size=12, on_nan="skip")
    assert [row["skipped"] for row in found.history] == [1, 1, 1]
    with pytest.raises(pvae.DivergedError):
        fit(model, lambda x: None, x, batch_size=12)


def test_skipped_numbers_are_those_of_the_other_batches():
    """Without random numbers, skipping a batch is training without it."""
    x = X.clone()
    x[7] = torch.tensor([1e30, 0.0, 0.0])
    torch.manual_seed(0)
    skipped = fit(*point_masses(), x, batch_size=1, epochs=1, on_nan="skip", seed=3)
    torch.manual_seed(0)
    order = torch.randperm(96, generator=torch.Generator().manual_seed(_order_seed(3)))
    others = [x[i : i + 1] for i in order.tolist() if i != 7]
    others = torch.cat(others).split(1)
    loader = torch.utils.data.DataLoader(torch.cat(others), batch_size=1)
    plain = fit(*point_masses(), loader, data_size=96, epochs=1, seed=3)
    torch.testing.assert_close(values(skipped), values(plain), rtol=1e-5, atol=1e-6)


def _order_seed(seed):
    from pvae._seeds import named_seed

    return named_seed(seed, "shuffling", 0)


def test_an_epoch_without_a_good_step_raises():
    x = 1e30 * torch.ones(96, 3)
    model, guide, _ = with_batch_norm()
    with pytest.raises(pvae.DivergedError, match="loss is not finite from step 0 on"):
        fit(model, guide, x, on_nan="skip", batch_size=48)


def test_mistakes_are_no_steps_to_skip():
    def model(x):
        scale = -1.0 if len(x) < 12 else 1.0
        loc = pyro.param("loc", torch.zeros(()))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, scale).expand([len(x), 3]).to_event(1), obs=x)

    with pytest.raises(pvae.PairError, match="scale"):
        fit(model, lambda x: None, X[:90], batch_size=12, on_nan="skip")
