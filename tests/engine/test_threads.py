"""The fastest number of threads is chosen by measurements, and changes nothing else."""

import pytest
import torch

from pvae.engine import threads


@pytest.fixture
def four(monkeypatch):
    """Four threads, and the seconds that a test gives to each number."""
    now, seconds = [4], {}
    monkeypatch.setattr(torch, "get_num_threads", lambda: now[0])
    monkeypatch.setattr(torch, "set_num_threads", lambda number: now.__setitem__(0, number))
    clock = [0.0]
    monkeypatch.setattr(threads.time, "perf_counter", lambda: clock[0])

    def work(x, weight):
        clock[0] += next(seconds[now[0]])

    monkeypatch.setattr(threads, "_work", work)

    def given(**times):
        seconds.update({int(n[1:]): iter(t, None) for n, t in times.items()})
        return threads.fastest_number_of_threads()

    return given


def always(value):
    return lambda: value


@pytest.mark.parametrize(
    ("times", "best"),
    [
        ((1.0, 1.3, 2.0, 4.0), 4),  # alone on the machine
        ((5.0, 1.4, 2.0, 4.0), 3),  # one other process
        ((5.0, 4.0, 2.0, 3.0), 2),
        ((5.0, 4.0, 3.0, 1.0), 1),
        ((1.0, 0.95, 2.0, 4.0), 4),  # not worth it
    ],
)
def test_fastest_number(four, times, best):
    number = four(**{f"n{n}": always(t) for n, t in zip((4, 3, 2, 1), times, strict=True)})
    assert number == best
    assert torch.get_num_threads() == 4


def test_a_few_slow_moments_do_not_count(four):
    count = iter(range(10_000))
    slow_at_times = lambda: 50.0 if next(count) % 40 == 0 else 1.0  # noqa: E731
    times = {"n4": slow_at_times, "n3": always(1.3), "n2": always(2.0), "n1": always(4.0)}
    assert four(**times) == 4


def test_one_thread_is_not_measured(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(threads, "_measured", None)
    assert threads.fastest_number_of_threads() == 1


def test_generators_and_threads_are_as_before():
    before, state = torch.get_num_threads(), torch.get_rng_state()
    assert 1 <= threads.fastest_number_of_threads() <= before
    assert torch.get_num_threads() == before
    assert torch.equal(torch.get_rng_state(), state)
