"""How far a training has come: everything that the next epoch needs, to save and to go back to."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pvae.engine.optimizers import restore_optimizer
from pvae.pair.pair import Belongings
from pvae.pair.preserve import generator_state, restore_generators
from pvae.svi import SVI

__all__ = ["Progress"]


@dataclass
class Progress:
    """The state of a training between two epochs.

    Attributes:
        belongings: networks and parameters of the pair.
        svi: carries out the steps.
        epoch: whole epochs done.
        step: gradient steps done.
        best: the best validation bound so far, its epoch and the state of the pair then; kept only
            where early stopping asks for it.
        waited: epochs since the best one.
    """

    belongings: Belongings
    svi: SVI
    epoch: int = 0
    step: int = 0
    best: dict[str, Any] = field(default_factory=dict)
    waited: int = 0

    def state(self) -> dict[str, Any]:
        """A copy of everything that the next epoch needs, in types that load without pickle."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "waited": self.waited,
            "best": dict(self.best),
            "pair": self.belongings.state_dict(),
            "optimizer": copy.deepcopy(self.svi.optim.get_state()),
            "engine": self.svi.progress(),
            "generators": generator_state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to a state."""
        self.epoch, self.step, self.waited = state["epoch"], state["step"], state["waited"]
        self.best = dict(state["best"])
        self.belongings.load_state_dict(state["pair"])
        restore_optimizer(self.svi.optim, copy.deepcopy(state["optimizer"]))
        self.svi.resume(state["engine"])
        restore_generators(state["generators"])

    def judge(self, bound: float) -> None:
        """Keep the pair if its validation bound is the best so far."""
        if math.isfinite(bound) and (not self.best or bound > self.best["bound"]):
            pair = self.belongings.state_dict()
            self.best = {"bound": bound, "epoch": self.epoch, "pair": pair}
            self.waited = 0
        else:
            self.waited += 1

    def keep_best(self) -> int | None:
        """Put the best parameters back, if there are any; returns their epoch."""
        if not self.best:
            return None
        self.belongings.load_state_dict(self.best["pair"])
        return int(self.best["epoch"])
