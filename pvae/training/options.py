"""The options of a training: checked, and kept in the run's config."""

from dataclasses import dataclass

import torch
from pyro.infer import ELBO, ReweightedWakeSleep, Trace_ELBO
from pyro.infer.renyi_elbo import RenyiELBO
from pyro.optim import PyroOptim
from torch import Tensor
from torch.optim import Optimizer

from pvae._validation import positive, whole
from pvae.engine.optimizers import MakeOptimizer, MakeScheduler, TorchOptim
from pvae.objectives import RWS, WakeSleep, require_instance
from pvae.svi import ENGINES

__all__ = ["DEFAULT_RATE", "ON_NAN", "Options"]

DEFAULT_RATE = 1e-3
ON_NAN = ("stop", "skip", "rollback")

# Their losses are not sums over sites, so that scaling a site would change the loss itself.
_NOT_SUMS = (RenyiELBO, ReweightedWakeSleep, RWS, WakeSleep)


@dataclass(frozen=True)
class Options:
    """The arguments of `fit` without the pair, the data and the run folder."""

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
    on_nan: str
    accumulate: int
    ema: float | None
    save_steps: int | None
    save_minutes: float | None
    engine: str
    precision: str
    seed: int

    def __post_init__(self) -> None:
        require_instance(self.objective)
        if self.objective is not None and not isinstance(self.objective, ELBO):
            raise TypeError(
                f"objective is {self.objective!r}, not an instance of pyro.infer.ELBO: give "
                "pyro.infer.Trace_ELBO()"
            )
        if self.on_nan not in ON_NAN:
            raise ValueError(f"unknown on_nan {self.on_nan!r}: give one of {list(ON_NAN)}")
        if self.engine not in ENGINES:
            raise ValueError(f"unknown engine {self.engine!r}: give one of {list(ENGINES)}")
        if self.optimizer is not None and self.learning_rate is not None:
            raise ValueError(
                "learning_rate is for the default optimizer: give it to your optimizer instead"
            )
        if isinstance(self.optimizer, PyroOptim) and self.scheduler is not None:
            raise ValueError(
                "scheduler is for torch's optimizers: with Pyro's give one of Pyro's schedulers as "
                "the optimizer, such as pyro.optim.ExponentialLR"
            )
        if self.warmup and isinstance(self.objective, _NOT_SUMS):
            raise ValueError(
                f"warmup scales single sites, and {type(self.objective).__name__} is not a sum "
                "over sites: use an ELBO such as pyro.infer.Trace_ELBO(), or leave warmup out"
            )
        if self.warmup and getattr(self.objective, "warmup", 0):
            raise ValueError(
                "fit and the objective both have a warmup, and they would multiply: give it to one"
            )
        whole(0, epochs=self.epochs, warmup=self.warmup, seed=self.seed)
        whole(1, patience=self.patience, save_steps=self.save_steps, accumulate=self.accumulate)
        if self.ema is not None and not 0 <= self.ema < 1:
            raise ValueError(f"ema is {self.ema}: give a decay of at least 0 and below 1")
        positive(
            clip_norm=self.clip_norm,
            learning_rate=self.learning_rate,
            data_size=self.data_size,
            save_minutes=self.save_minutes,
        )

    def make_objective(self) -> ELBO:
        """The objective (default: `Trace_ELBO()`)."""
        return Trace_ELBO() if self.objective is None else self.objective

    def make_optimizer(self, parameters: dict[str, Tensor]) -> PyroOptim:
        """The optimizer over these parameters, with its schedule (default: Adam)."""
        if isinstance(self.optimizer, PyroOptim):
            return self.optimizer
        rate = DEFAULT_RATE if self.learning_rate is None else self.learning_rate
        default = _adam(rate)
        optim = TorchOptim(default if self.optimizer is None else self.optimizer)
        if parameters:
            made = optim.prepare(parameters.values())
            optim.scheduler = self.scheduler(made) if self.scheduler is not None else None
        return optim

    def as_json(self) -> dict[str, object]:
        """The options for the run's config."""
        return {
            "objective": _describe(self.make_objective()),
            "optimizer": "Adam" if self.optimizer is None else _describe(self.optimizer),
            "learning_rate": self.learning_rate,
            "scheduler": None if self.scheduler is None else _describe(self.scheduler),
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "steps_per_epoch": self.steps_per_epoch,
            "data_size": self.data_size,
            "patience": self.patience,
            "warmup": self.warmup,
            "clip_norm": self.clip_norm,
            "on_nan": self.on_nan,
            "accumulate": self.accumulate,
            "ema": self.ema,
            "engine": self.engine,
            "precision": self.precision,
            "seed": self.seed,
        }


def _adam(rate: float) -> MakeOptimizer:
    # Fused: one kernel instead of a loop over parameters.
    return lambda parameters: torch.optim.Adam(parameters, lr=rate, fused=True)


def _describe(thing: object) -> str:
    """A name that distinguishes objectives and optimizers."""
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
