"""The number of threads with which this machine computes fastest at present."""

import statistics
import time

import torch

__all__ = ["fastest_number_of_threads"]

_ROUNDS, _REPEATS = 9, 5  # measurements of each number, and steps in one of them
_WORTH = 0.8  # of the time with all threads


def fastest_number_of_threads() -> int:
    """Measure, for about a second, how many threads are fastest beside what else the machine does.

    Torch's threads wait for each other several times in a step, each by computing. If another
    process takes the core of one of them, all of them wait for it, and one thread fewer is several
    times as fast.

    Returns:
        The fastest number of the present one, one less, half of it, and 1; but the present one
        unless another saves a fifth of the time.

    Example:
        >>> 1 <= fastest_number_of_threads() <= torch.get_num_threads()
        True
    """
    most = torch.get_num_threads()
    counts = sorted({most, most - 1, most // 2, 1} - {0}, reverse=True)
    if len(counts) == 1:
        return most
    times = {count: statistics.median(found) for count, found in _measured(counts).items()}
    best = min(times, key=lambda count: times[count])
    return best if times[best] < _WORTH * times[most] else most


def _measured(counts: list[int]) -> dict[int, list[float]]:
    """Seconds of some work with each number of threads, interleaved."""
    x, weight = torch.full((128, 784), 0.5), torch.full((784, 200), 1e-3)
    found: dict[int, list[float]] = {count: [] for count in counts}
    before = torch.get_num_threads()
    try:
        for _ in range(_ROUNDS):
            for count, seconds in found.items():
                torch.set_num_threads(count)
                _work(x, weight)  # the threads begin here
                began = time.perf_counter()
                for _ in range(_REPEATS):
                    _work(x, weight)
                seconds.append(time.perf_counter() - began)
    finally:
        torch.set_num_threads(before)
    return found


def _work(x: torch.Tensor, weight: torch.Tensor) -> None:
    """The products and the element-wise operations of a small gradient step."""
    hidden = torch.nn.functional.silu(x @ weight)
    output = (hidden @ weight.t()).sigmoid_() - x
    output.t() @ hidden
    x.t() @ (output @ weight)
