"""The options of a training: refused where they make no sense, and kept in the run's config."""

from dataclasses import dataclass

import torch
from pyro.infer import ELBO, ReweightedWakeSleep, Trace_ELBO
from pyro.infer.renyi_elbo import RenyiELBO
from pyro.optim import PyroOptim
from torch import Tensor
from torch.optim import Optimizer

from pvae.engine.optimizers import MakeOptimizer, MakeScheduler, TorchOptim
from pvae.objectives import RWS, WakeSleep
from pvae.svi import ENGINES

__all__ = ["Options"]

# Their losses are not sums over sites: a scaled site would change which loss they are.
_NOT_SUMS = (RenyiELBO, ReweightedWakeSleep, RWS, WakeSleep)


@dataclass(frozen=True)
class Options:
    """What `fit` was asked for, apart from the pair, the data and the place of the run."""

    objective: ELBO | None
    optimizer: PyroOptim | Optimizer | MakeOptimizer | None
    learning_rate: float | None
    scheduler: MakeScheduler | None
    epochs: int
    batch_size: int
    steps_per_epoch: int | None
    data_size: int | None
    patience: int | None
    warmup: int
    clip_norm: float | None
    engine: str
    precision: str
    seed: int

    def __post_init__(self) -> None:
        if self.objective is not None and not isinstance(self.objective, ELBO):
            given = self.objective
            hint = f"{given.__name__}()" if isinstance(given, type) else "pyro.infer.Trace_ELBO()"
            raise TypeError(
                f"objective is {given!r}, not an instance of pyro.infer.ELBO: give {hint}"
            )
        if self.engine not in ENGINES:
            raise ValueError(f"unknown engine {self.engine!r}: the engines are {list(ENGINES)}")
        if self.optimizer is not None and self.learning_rate is not None:
            raise ValueError("learning_rate is for the default optimizer: give it to yours instead")
        if isinstance(self.optimizer, PyroOptim) and self.scheduler is not None:
            raise ValueError(
                "scheduler is for torch's optimizers: with Pyro's give one of Pyro's schedulers as "
                "the optimizer, such as pyro.optim.ExponentialLR"
            )
        if self.warmup and isinstance(self.objective, _NOT_SUMS):
            raise ValueError(
                f"warmup scales single sites, and {type(self.objective).__name__} is no sum over "
                "sites: use an ELBO such as pyro.infer.Trace_ELBO(), or leave warmup out"
            )
        if self.warmup and getattr(self.objective, "warmup", 0):
            raise ValueError(
                "warmup was given to fit and to the objective, which would multiply: give it to one"
            )
        for name, least in (("epochs", 0), ("warmup", 0), ("patience", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} is {value}: give at least {least}")
        for name in ("clip_norm", "learning_rate", "data_size"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value}: give a number above 0")

    def make_objective(self) -> ELBO:
        """The objective, `Trace_ELBO()` where none was given."""
        return Trace_ELBO() if self.objective is None else self.objective

    def make_optimizer(self, parameters: dict[str, Tensor]) -> PyroOptim:
        """The optimizer over these parameters, with its schedule; Adam where none was given."""
        if isinstance(self.optimizer, PyroOptim):
            return self.optimizer
        rate = 1e-3 if self.learning_rate is None else self.learning_rate
        default = _adam(rate)
        optim = TorchOptim(default if self.optimizer is None else self.optimizer)
        if parameters:
            made = optim.prepare(parameters.values())
            optim.scheduler = self.scheduler(made) if self.scheduler is not None else None
        return optim

    def as_json(self) -> dict[str, object]:
        """The options as the run's config keeps them."""
        return {
            "objective": _described(self.make_objective()),
            "optimizer": "Adam" if self.optimizer is None else _described(self.optimizer),
            "learning_rate": self.learning_rate,
            "scheduler": None if self.scheduler is None else _described(self.scheduler),
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "steps_per_epoch": self.steps_per_epoch,
            "data_size": self.data_size,
            "patience": self.patience,
            "warmup": self.warmup,
            "clip_norm": self.clip_norm,
            "engine": self.engine,
            "precision": self.precision,
            "seed": self.seed,
        }


def _adam(rate: float) -> MakeOptimizer:
    # Fused: one kernel instead of a loop over parameters.
    return lambda parameters: torch.optim.Adam(parameters, lr=rate, fused=True)


def _described(thing: object) -> str:
    """A name that tells one objective or optimizer from another."""
    if isinstance(thing, ELBO):
        plain = {
            k: v
            for k, v in vars(thing).items()
            if isinstance(v, bool | int | float | str | tuple | list)
        }
        given = ", ".join(f"{k}={v}" for k, v in sorted(plain.items()) if not k.startswith("_"))
        return f"{type(thing).__name__}({given})"
    if isinstance(thing, PyroOptim):
        return f"pyro.optim {getattr(thing.pt_optim_constructor, '__name__', 'optimizer')}"
    return str(getattr(thing, "__qualname__", type(thing).__name__))
