"""The state of a training between two epochs, to save and to restore."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pvae.engine.optimizers import TorchOptim, restore_optimizer
from pvae.pair.pair import Pair
from pvae.pair.preserve import generator_state, restore_generators
from pvae.svi import SVI

__all__ = ["TrainingState"]


@dataclass
class TrainingState:
    """Everything that the next epoch depends on.

    Attributes:
        pair: networks and parameters.
        svi: optimizer and engine.
        epoch: number of complete epochs.
        step: number of gradient steps.
        best: the best validation bound so far, its epoch and the pair's values then; empty without
            early stopping.
        epochs_since_best: epochs without a better bound.
    """

    pair: Pair
    svi: SVI
    epoch: int = 0
    step: int = 0
    best: dict[str, Any] = field(default_factory=dict)
    epochs_since_best: int = 0

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
            "generators": generator_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state that `state_dict` returned."""
        self.epoch, self.step = state["epoch"], state["step"]
        self.epochs_since_best = state["epochs_since_best"]
        self.best = dict(state["best"])
        self.pair.load_state_dict(state["pair"])
        optim = self.svi.optim
        if isinstance(optim, TorchOptim) and state["order"] is not None:
            optim.match(state["order"], self.pair.named_parameters())
        restore_optimizer(optim, copy.deepcopy(state["optimizer"]))
        self.svi.resume(state["engine"])
        restore_generators(state["generators"])

    def record_bound(self, bound: float) -> None:
        """Keep the pair's values if its validation bound is the best so far."""
        if math.isfinite(bound) and (not self.best or bound > self.best["bound"]):
            pair = self.pair.state_dict()
            self.best = {"bound": bound, "epoch": self.epoch, "pair": pair}
            self.epochs_since_best = 0
        else:
            self.epochs_since_best += 1

    def restore_best(self) -> int | None:
        """Restore the best parameters and return their epoch; None without early stopping."""
        if not self.best:
            return None
        self.pair.load_state_dict(self.best["pair"])
        return int(self.best["epoch"])
