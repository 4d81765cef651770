"""How much each site counts in a minibatch: global sites once per data set, and KL warm-up."""

from collections.abc import Callable
from typing import Any, cast

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from pyro.poutine.util import site_is_subsample

from pvae.pair.log_prob import DataPlate
from pvae.pair.traces import Site, sample_sites

__all__ = ["Weighting"]


class Weighting(Messenger):
    """Scales sites so that a minibatch's loss, divided by a number, is in nats per datum.

    Local sites keep their scale; global sites get len(batch) / N, so that they count once per data
    set. A plate that the user sized to the data set scales local sites by N / len(batch) itself;
    then global sites are left alone. Latent sites are also scaled by the warm-up factor.

    Args:
        plate: the data plate; without one every site counts as local.
        model_trace: tells which sites are global.
        size: the number N of data, or None for an endless stream.
        device: where the warm-up factor lives.
        warmup: epochs before latent sites count fully; their factor lives in the tensor `beta`.

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
        # The program's plate says how many data there are where it is no subsample of the batch.
        sized = plate is not None and plate.full_size != plate.rows
        self.plate_size = plate.full_size if plate is not None and sized else None
        self.size = size
        self.warmup = warmup
        self.beta = torch.ones((), device=device) if warmup else None
        sites = dict(sample_sites(model_trace))
        self.local = {n for n, s in sites.items() if plate is None or plate.frame(s) is not None}
        self.shared = sorted(set(sites) - self.local)
        self._factor = 1.0
        if self.shared and self.plate_size is None and size is None:
            raise ValueError(
                f"sites {self.shared} are global, and an endless stream has no size to weigh them "
                "by: say how many data there are with data_size="
            )

    @property
    def notes(self) -> list[str]:
        """What a reader of the run should know about its scales."""
        if self.plate and self.plate_size is not None and self.size not in (None, self.plate_size):
            return [
                f"plate {self.plate.name!r} has size {self.plate_size}, the data have {self.size} "
                "rows: the program's own scale is left as it is"
            ]
        return []

    @property
    def needed(self) -> bool:
        """Whether any site is scaled; without that the programs run as they are."""
        return self.beta is not None or (bool(self.shared) and self.plate_size is None)

    def set_epoch(self, number: int) -> None:
        """Set the warm-up factor for an epoch, counted from 0."""
        if self.beta is not None:
            self.beta.fill_(min(1.0, (number + 1) / (self.warmup + 1)))

    def set_batch(self, rows: int) -> int:
        """Fit the factors to a batch of so many rows; returns what its loss is to be divided by."""
        if self.plate_size is not None:
            self._factor = 1.0
            return self.plate_size
        self._factor = rows / self.size if self.size is not None else 1.0
        return rows

    def wrap(self, program: Callable[..., object]) -> Callable[..., object]:
        """The program with its sites scaled."""
        if not self.needed:
            return program

        def weighted(*args: object, **kwargs: object) -> object:
            with self:
                return program(*args, **kwargs)

        return weighted

    def _pyro_sample(self, msg: Message[Any, Any]) -> None:
        if site_is_subsample(msg):
            return
        inside = msg["name"] in self.local or (
            self.plate is not None and self.plate.frame(cast(Site, msg)) is not None
        )
        if self.plate is not None and not inside:
            msg["scale"] = msg["scale"] * self._factor
        if self.beta is not None and not msg["is_observed"]:
            msg["scale"] = msg["scale"] * self.beta
