"""The state of a training between two steps, to save and to restore."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pvae.data import Batches
from pvae.engine.optimizers import TorchOptim, restore_optimizer
from pvae.pair.pair import Pair
from pvae.pair.preserve import generator_state, restore_generators
from pvae.svi import SVI
from pvae.training.averaging import WeightAverage
from pvae.training.series import Series

__all__ = ["PartialEpoch", "TrainingState"]


@dataclass
class PartialEpoch:
    """What the steps of an epoch have returned so far.

    Attributes:
        losses: of each batch, in nats per datum, shape ().
        norms: of each step's gradient, if gradients are clipped, shape ().
        sizes: rows of each step's batch.
        seconds: time that they took.
        loading: time in it that passed until their batches were there.
        batch: of the last step.
        generators: the random number generators before the epoch, which loaders may draw their
            order from.
    """

    losses: Series = field(default_factory=Series)
    norms: Series = field(default_factory=Series)
    sizes: list[int] = field(default_factory=list)
    seconds: float = 0.0
    loading: float = 0.0
    batch: tuple[Tensor, ...] = ()
    generators: dict[str, object] = field(default_factory=generator_state)

    def skipped(self) -> Tensor:
        """Which of the losses are not finite, bool; reads the device."""
        return ~torch.isfinite(self.losses.values.cpu())

    def state_dict(self) -> dict[str, Any]:
        """A copy of the state, in types that load without pickle; empty before the first step."""
        if not self.sizes:
            return {}
        return {
            "losses": self.losses.values.clone(),
            "norms": self.norms.values.clone(),
            "sizes": list(self.sizes),
            "seconds": self.seconds,
            "loading": self.loading,
            "batch": list(self.batch),
            "generators": self.generators,
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> "PartialEpoch":
        """The steps that `state_dict` described."""
        if not state:
            return cls()
        return cls(
            Series(state["losses"]), Series(state["norms"]), list(state["sizes"]), state["seconds"],
            state["loading"],
            tuple(state["batch"]), state["generators"],
        )  # fmt: skip


@dataclass
class TrainingState:
    """Everything that the next step depends on.

    Attributes:
        pair: networks and parameters.
        svi: optimizer and engine.
        source: of the batches.
        epoch: number of complete epochs.
        partial: the epoch after them, as far as its steps were taken.
        average: of the parameters over steps, or None.
        step: number of gradient steps.
        best: the best validation bound so far, its epoch and the pair's values then; empty without
            early stopping.
        epochs_since_best: epochs without a better bound.
        good: the state that `keep` remembered.
    """

    pair: Pair
    svi: SVI
    source: Batches
    epoch: int = 0
    partial: PartialEpoch = field(default_factory=PartialEpoch)
    average: WeightAverage | None = None
    step: int = 0
    best: dict[str, Any] = field(default_factory=dict)
    epochs_since_best: int = 0
    good: dict[str, Any] = field(default_factory=dict, init=False)
    _registered: Mapping[str, Mapping[object, object]] = field(default_factory=dict, init=False)

    def state_dict(self) -> dict[str, Any]:
        """A copy of the state, in types that load without pickle."""
        optim = self.svi.optim
        return {
            "epoch": self.epoch,
            "step": self.step,
            "epochs_since_best": self.epochs_since_best,
            "best": dict(self.best),
            "pair": self.pair.state_dict(),
            "optimizer": copy.deepcopy(self.svi.optim.get_state()),
            "order": optim.order(self.pair.named_parameters())
            if isinstance(optim, TorchOptim)
            else None,
            "engine": self.svi.counts(),
            "data": self.source.state_dict(),
            "partial": self.partial.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "generators": generator_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state that `state_dict` returned."""
        self.epoch, self.step = state["epoch"], state["step"]
        self.epochs_since_best = state["epochs_since_best"]
        self.best = dict(state["best"])
        self.pair.load_state_dict(state["pair"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        optim = self.svi.optim
        if isinstance(optim, TorchOptim) and state["order"] is not None:
            optim.match(state["order"], self.pair.named_parameters())
        restore_optimizer(optim, copy.deepcopy(state["optimizer"]))
        self.svi.resume(state["engine"])
        self.source.load_state_dict(state["data"])
        restore_generators(state["generators"])
        self.partial = PartialEpoch.from_state_dict(state["partial"])

    def keep(self) -> None:
        """Remember this state as the last good one."""
        self.good, self._registered = self.state_dict(), self.pair.registered()

    def go_back(self) -> None:
        """Restore the last good state, whatever the programs registered since."""
        self.pair.register_again(self._registered)
        self.load_state_dict(self.good)

    def record_bound(self, bound: float) -> None:
        """Keep the pair's values if its validation bound is the best so far."""
        if math.isfinite(bound) and (not self.best or bound > self.best["bound"]):
            pair = self.pair.state_dict()
            average = None if self.average is None else self.average.state_dict()
            self.best = {"bound": bound, "epoch": self.epoch, "pair": pair, "average": average}
            self.epochs_since_best = 0
        else:
            self.epochs_since_best += 1

    def restore_best(self) -> int | None:
        """Restore the best parameters and return their epoch; None without early stopping."""
        if not self.best:
            return None
        self.pair.load_state_dict(self.best["pair"])
        if self.average is not None:
            self.average.load_state_dict(self.best["average"])
        return int(self.best["epoch"])
