"""Training with every kind of data."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import callables as kinds
from pyro.infer.autoguide import AutoNormal
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import pvae


class Rows(Dataset):
    def __len__(self):
        return 40

    def __getitem__(self, i):
        return kinds.toy_data()[i]


class Stream(IterableDataset):
    def __iter__(self):
        generator = torch.Generator().manual_seed(0)
        while True:
            yield torch.randn(3, generator=generator)


@pytest.mark.parametrize(
    ("data", "options"),
    [
        (Rows(), {}),
        (TensorDataset(kinds.toy_data()), {}),
        (DataLoader(Rows(), batch_size=16, shuffle=True), {}),
        (Stream(), {"steps_per_epoch": 4, "batch_size": 8}),
    ],
)
def test_data_sets_loaders_and_streams(data, options):
    trained = pvae.fit(*kinds.make("methods", 0), data, epochs=2, progress=False, **options)
    assert len(trained.history) == 2
    assert math.isfinite(trained.history[-1]["train_loss"])


def test_tuple_of_tensors():
    def model(x, y):
        weight = pyro.param("weight", torch.zeros(()))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(weight * x, 1.0), obs=y)

    x = torch.randn(64)
    trained = pvae.fit(
        model, lambda x, y: None, (x, 3 * x), epochs=200, learning_rate=0.1, progress=False
    )
    (weight,) = trained.model.pair.parameters().values()
    assert weight.item() == pytest.approx(3.0, abs=0.05)


def test_per_datum_guide_parameters():
    def model(x):
        loc = pyro.param("loc", torch.zeros(2))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    x = 3 + torch.randn(30, 2)
    options = {"batch_size": 30, "learning_rate": 0.05, "epochs": 300}
    guide = AutoNormal(model)
    trained = pvae.fit(model, guide, x, progress=False, **options)
    loc = trained.model.pair.parameters()["loc"].detach()
    torch.testing.assert_close(loc, x.mean(0), atol=0.15, rtol=0)
    exact = (x + loc) / 2  # if each row keeps its place in the batch
    assert (guide.median(x)["z"].detach() - exact).abs().mean() < 0.15
    assert any(
        "there are no terms by site: the pair does not run on 2 rows" in note
        for note in trained.notes
    )


@pytest.mark.parametrize("sized", [False, True])
def test_data_that_can_be_read_once(sized):
    class Once(torch.utils.data.IterableDataset):
        def __init__(self):
            self.rows = iter(kinds.toy_data(48))

        def __iter__(self):
            return self.rows

    class Sized(Once):
        def __len__(self):
            return 48

    steps = {} if sized else {"steps_per_epoch": 4}
    data = Sized() if sized else Once()
    pair = kinds.make("functions", 0)
    fit = pvae.fit(*pair, data, epochs=1, batch_size=12, progress=False, **steps)
    assert fit.history[-1]["step"] == 4


@pytest.mark.parametrize("batch_size", [20, 12])
def test_rows_of_parameters_are_not_shared(batch_size):
    model, _ = kinds.make("functions", 0)
    guide = AutoNormal(model)
    with pytest.raises(pvae.PairError, match="would share them: train on all data at once"):
        pvae.fit(model, guide, kinds.toy_data(48), epochs=1, batch_size=batch_size, progress=False)
