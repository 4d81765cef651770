"""Baselines: values, and training, saving and restoring by fit."""

import pytest
import torch
from pairs.recordable import PAIRS, X
from torch import nn

import pvae
from pvae.objectives import REINFORCE, MovingAverage, NetworkBaseline
from pvae.objectives.baselines import leave_one_out


def test_leave_one_out_is_mean_of_others():
    signal = torch.randn(4, 3)
    wanted = torch.stack([signal[[j for j in range(4) if j != k]].mean(0) for k in range(4)])
    torch.testing.assert_close(leave_one_out(signal), wanted)


def test_moving_average_bias_correction():
    average = MovingAverage(0.8)
    assert average().item() == 0
    values = [3.0, -1.0, 2.0]
    for value in values:
        average.see(torch.full((2, 5), value))
    weights = torch.tensor([0.8**2, 0.8, 1.0])
    wanted = (weights * torch.tensor(values)).sum() / weights.sum()
    assert average().item() == pytest.approx(wanted.item())
    with pytest.raises(ValueError, match="decay is 1"):
        MovingAverage(1.0)


def test_baseline_excludes_current_batch():
    model, guide = PAIRS["bernoulli hierarchy"]()
    average = MovingAverage()
    objective = REINFORCE(baseline=average)
    pair = objective.prepare(model, guide, X[:7])
    expected, _ = objective._expected(torch.full((1, 7), 5.0), (X[:7],))
    assert expected.item() == 0
    assert average().item() == pytest.approx(5.0)
    with torch.no_grad():  # evaluation does not change it
        objective.estimate(pair, (X[:7],))
    assert average().item() == pytest.approx(5.0)


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1))

    def forward(self, x):
        return self.net(x)[:, 0]


@pytest.mark.parametrize(
    "make", [lambda: NetworkBaseline((3,), hidden=8), Own], ids=["network", "own"]
)
def test_network_learns_expected_signal(make):
    torch.manual_seed(0)
    model, guide = PAIRS["bernoulli hierarchy"]()
    baseline = make()
    objective = REINFORCE(2, baseline=baseline)
    pvae.fit(
        model, guide, X, objective=objective, epochs=150, batch_size=32, learning_rate=0.02,
        engine="recorded", progress=False,
    )  # fmt: skip
    bound = torch.stack([objective.per_datum(model, guide, X) for _ in range(50)]).mean(0)
    expected = baseline(X).detach()
    assert ((bound - expected) ** 2).mean() < 0.5 * bound.var()


@pytest.mark.parametrize("baseline", ["moving_average", "network"])
def test_resumed_baseline(tmp_path, baseline):
    def train(out, epochs, resume=False):
        torch.manual_seed(0)
        model, guide = PAIRS["bernoulli hierarchy"]()
        objective = REINFORCE(baseline=baseline, x_shape=(3,))
        pvae.fit(
            model, guide, X, objective=objective, epochs=epochs, batch_size=32, out=out,
            resume=resume, engine="recorded", progress=False,
        )  # fmt: skip
        return guide, objective

    train(tmp_path / "b", 2)
    _, objective = train(tmp_path / "b", 4, resume=True)
    wanted_guide, wanted = train(tmp_path / "a", 4)
    (own,), (other,) = objective.networks().values(), wanted.networks().values()
    for value, expected in zip(own.state_dict().values(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(value, expected)
    loaded = pvae.load(tmp_path / "a", model=PAIRS["bernoulli hierarchy"]()[0], guide=wanted_guide)
    assert pvae.elbo(loaded.model, loaded.guide, X).mean < 0
