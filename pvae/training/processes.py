"""The processes of a training: which rows each has, and what they agree on."""

import gc
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pyro
import torch
import torch.distributed as dist
from torch import Tensor

from pvae._seeds import named_seed
from pvae.engine.all_reduce import ProcessEndedError, broadcast, together
from pvae.pair.preserve import generator_state, preserve_generators, restore_generators

__all__ = ["Processes", "process_group"]

_LONGEST = timedelta(hours=2)  # that a process waits for the others


class Processes:
    """This process, and the others of its group; alone if there is no group.

    Args:
        seed: of the random numbers of each process.

    Attributes:
        rank: number of this process.
        size: number of processes.
    """

    def __init__(self, seed: int) -> None:
        several = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if several else 0
        self.size = dist.get_world_size() if several else 1
        self.seed = seed

    @property
    def several(self) -> bool:
        """Whether there are other processes."""
        return self.size > 1

    def start(self, tensors: Sequence[Tensor]) -> None:
        """Begin with the values of the first process, and random numbers of one's own."""
        if self.several:
            broadcast(tensors)
        if self.rank:
            pyro.set_rng_seed(named_seed(self.seed, "process", self.rank))

    def shard(self, batch: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], int]:
        """The rows of a batch that are this process's, and their number.

        A process without rows of its own takes the first one, which counts 0.
        """
        own = tuple(part[self.rank :: self.size].contiguous() for part in batch)
        rows = len(own[0])
        return (own if rows else tuple(part[:1] for part in batch)), rows

    def mean(self, values: Tensor, weights: Tensor) -> Tensor:
        """The weighted means over processes, element by element."""
        if not self.several:
            return values
        total = torch.stack([torch.where(weights > 0, values * weights, 0.0), weights])
        together(lambda: dist.all_reduce(total))
        return total[0] / total[1]

    def any(self, flags: Sequence[bool], device: torch.device) -> list[bool]:
        """Which of the flags are set in any process."""
        if not self.several:
            return list(flags)
        found = torch.tensor([float(flag) for flag in flags], device=device)
        together(lambda: dist.all_reduce(found, op=dist.ReduceOp.MAX))
        return [bool(flag) for flag in found.tolist()]

    def first(self, value: object) -> Any:
        """What the first process gives."""
        if not self.several:
            return value
        given = [value]
        together(lambda: dist.broadcast_object_list(given))
        return given[0]

    def gather(self, value: object) -> list[Any]:
        """What each process gives."""
        if not self.several:
            return [value]
        found: list[Any] = [None] * self.size
        together(lambda: dist.all_gather_object(found, value))
        return found

    def own_generators(self, states: Sequence[dict[str, object]], step: int) -> dict[str, object]:
        """The generators of this process, of a run that may have had another number of them."""
        if self.rank < len(states):
            return states[self.rank]
        with preserve_generators():
            pyro.set_rng_seed(named_seed(self.seed, "further process", self.rank * 2**32 + step))
            return generator_state()

    def same_draws(
        self, epoch: Callable[[], Iterator[tuple[Tensor, ...]]], number: int
    ) -> Iterator[tuple[Tensor, ...]]:
        """The batches of an epoch, drawn with random numbers that all processes have."""
        with preserve_generators():
            pyro.set_rng_seed(named_seed(self.seed, "loader", number))
            batches = epoch()
            theirs = generator_state()
        while True:
            with preserve_generators():
                restore_generators(theirs)
                batch = next(batches, None)
                theirs = generator_state()
            if batch is None:
                return
            yield batch


@contextmanager
def process_group() -> Iterator[int]:
    """Join the processes that torchrun started, if it did; yields the number of this process."""
    if "WORLD_SIZE" not in os.environ or not dist.is_available() or dist.is_initialized():
        yield dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    # The others wait while the first process evaluates what is not divided.
    dist.init_process_group(backend, timeout=_LONGEST)
    try:
        yield dist.get_rank()
        together(dist.barrier)  # so that none closes its connections while others use them
    except ProcessEndedError:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun's, before the message is out
        raise
    finally:
        dist.destroy_process_group()
        gc.collect()  # a group that something still refers to aborts the process at its end
