"""What each site counts in a minibatch: global sites once per data set, and KL warm-up."""

from collections.abc import Callable
from typing import Any, cast

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from pyro.poutine.util import site_is_subsample

from pvae.pair.plate import DataPlate
from pvae.pair.traces import Site, sample_sites

__all__ = ["Scaling"]


class Scaling(Messenger):
    """Scales sites so that a minibatch's loss, divided by `set_batch`, is in nats per datum.

    Local sites keep their scale; global sites are multiplied by len(batch) / N, so that they count
    once per data set. A plate that the user sized to the data set scales local sites by
    N / len(batch) itself; global sites are then left alone. The warm-up factor multiplies latent
    sites.

    Args:
        plate: the data plate; without one every site is local.
        model_trace: shows which sites are global.
        size: the number N of data, or None for an endless stream.
        device: device of the warm-up factor.
        warmup: epochs before latent sites count fully; their factor is the tensor `beta`.

    Raises:
        ValueError: if there are global sites in a stream of unknown size.

    References:
        Ladder Variational Autoencoders (C. K. Sonderby, T. Raiko, L. Maaloe, S. K. Sonderby,
        O. Winther, 2016; section 2.3), https://arxiv.org/abs/1602.02282
    """

    def __init__(
        self,
        plate: DataPlate | None,
        model_trace: poutine.Trace,
        size: int | None,
        *,
        device: torch.device,
        warmup: int,
    ) -> None:
        super().__init__()
        self.plate = plate
        # The program states the number of data if its plate is larger than the batch.
        sized = plate is not None and plate.full_size != plate.rows
        self.plate_size = plate.full_size if plate is not None and sized else None
        self.size = size
        self.warmup = warmup
        self.beta = torch.ones((), device=device) if warmup else None
        sites = dict(sample_sites(model_trace))
        self.local_sites = {
            n for n, s in sites.items() if plate is None or plate.frame(s) is not None
        }
        self.global_sites = sorted(set(sites) - self.local_sites)
        self._factor = 1.0
        if self.global_sites and self.plate_size is None and size is None:
            raise ValueError(
                f"sites {self.global_sites} are global, and an endless stream has no size to scale "
                "them by: give the number of data as data_size="
            )

    @property
    def notes(self) -> list[str]:
        """What a reader of the run should know about its scales."""
        if self.plate and self.plate_size is not None and self.size not in (None, self.plate_size):
            return [
                f"plate {self.plate.name!r} has size {self.plate_size}, and the data have "
                f"{self.size} rows: the program's scale is kept"
            ]
        return []

    @property
    def needed(self) -> bool:
        """Whether any site is scaled; otherwise the programs run unwrapped."""
        return self.beta is not None or (bool(self.global_sites) and self.plate_size is None)

    def set_epoch(self, number: int) -> None:
        """Set the warm-up factor for an epoch, counted from 0."""
        if self.beta is not None:
            self.beta.fill_(min(1.0, (number + 1) / (self.warmup + 1)))

    def set_batch(self, rows: int) -> int:
        """Set the factors for a batch of this many rows; returns the divisor of its loss."""
        if self.plate_size is not None:
            self._factor = 1.0
            return self.plate_size
        self._factor = rows / self.size if self.size is not None else 1.0
        return rows

    def wrap(self, program: Callable[..., object]) -> Callable[..., object]:
        """The program with its sites scaled."""
        if not self.needed:
            return program

        def scaled(*args: object, **kwargs: object) -> object:
            with self:
                return program(*args, **kwargs)

        return scaled

    def _pyro_sample(self, msg: Message[Any, Any]) -> None:
        if site_is_subsample(msg):
            return
        local = msg["name"] in self.local_sites or (
            self.plate is not None and self.plate.frame(cast(Site, msg)) is not None
        )
        if self.plate is not None and not local:
            msg["scale"] = msg["scale"] * self._factor
        if self.beta is not None and not msg["is_observed"]:
            msg["scale"] = msg["scale"] * self.beta
