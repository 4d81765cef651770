"""Timing of gradient steps: alternation, ratios, and the contenders."""

import itertools

import pytest
import torch
from pairs import callables as kinds
from pairs.recordable import X

from pvae.cli import bench
from pvae.cli.bench import Contender, Timings, contenders


@pytest.fixture
def clock(monkeypatch):
    """A clock that advances only when a contender takes a step."""
    now = [0.0]
    monkeypatch.setattr(bench.time, "perf_counter", lambda: now[0])
    return now


def test_contenders_alternate_and_ratios_are_per_round(clock):
    order = []
    slow_down = itertools.count(1)  # the simulated machine slows down steadily

    def contender(name, seconds):
        def step():
            order.append(name)
            clock[0] += seconds * next(slow_down)

        return Contender(step)

    timings = Timings.measure({"a": contender("a", 1.0), "b": contender("b", 2.0)}, rounds=9)
    assert len(timings.rounds["a"]) == len(timings.rounds["b"]) == 9
    turns = [name for name, _ in itertools.groupby(order)]
    assert turns == ["a", "b"] * (9 + 3)
    assert timings.ratio("b", "a")["median"] == pytest.approx(2.0, rel=0.15)
    assert timings.ratio("a", "a") == {"median": 1, "lower quartile": 1, "upper quartile": 1}
    text = timings.table("a").splitlines()[1]
    assert text.startswith("b ")
    assert "of 'a'" in text


def test_turn_exceeds_clock_resolution(clock):
    steps = []

    def step():
        steps.append(None)
        clock[0] += 1e-3

    timings = Timings.measure({"a": Contender(step)}, rounds=4)
    assert timings.rounds["a"] == pytest.approx([1.0] * 4)
    assert len(steps) == 3 * 2 + 4 * 20


def test_all_contenders_train():
    model, guide = kinds.make("functions", 0)
    ways, own = contenders(model, guide, (X,))
    assert [*ways][:5] == [
        "Pyro, as users run it", "Pyro, no validation", "pvae eager", "pvae recorded",
        "pvae captured",
    ]  # fmt: skip
    encoder = guide.__closure__[0].cell_contents
    for name, way in ways.items():
        if "captured" in name:
            continue
        before = torch.cat([p.detach().flatten() for p in encoder.parameters()])
        with way.scope():
            way.step()
            way.step()
        after = torch.cat([p.detach().flatten() for p in encoder.parameters()])
        assert not torch.equal(before, after), name
    assert own["pvae recorded"].engine == "recorded since step 2: 1 of 2 steps replayed"
