"""The loop over epochs and batches."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, NoReturn

import pyro
import torch
from torch import Tensor

from pvae.checking import Supports
from pvae.data import Batches, Rows
from pvae.engine.all_reduce import AllReduce, broadcast
from pvae.engine.optimizers import (
    TorchOptim,
    end_epoch,
    learning_rate_of,
    scale_learning_rate,
)
from pvae.evaluation import UndefinedQuantityError
from pvae.objectives import Objective
from pvae.pair.pair import Pair
from pvae.pair.plate import DataPlate
from pvae.svi import SVI
from pvae.training.averaging import WeightAverage
from pvae.training.divergence import (
    BrokenSite,
    DivergedError,
    diverged,
    first_broken_site,
)
from pvae.training.interrupts import Interrupts
from pvae.training.logger import RunLogger
from pvae.training.nonfinite import first_nonfinite_operation
from pvae.training.options import Options
from pvae.training.processes import Processes
from pvae.training.result import Fit
from pvae.training.scaling import Scaling
from pvae.training.state import PartialEpoch, TrainingState
from pvae.training.steps import Steps
from pvae.training.validation import Validation

__all__ = ["Loop"]

# A loss that is worse than the best so far by this many times its size has diverged.
_DIVERGED = 100.0
_MOST_ROLLBACKS = 10  # without a good epoch between them
_AGREE = 50  # steps after which processes tell each other about signals and the time


@dataclass
class Loop:
    """Epoch after epoch of gradient steps, each followed by validation.

    Attributes:
        pair: the networks and parameters to train.
        svi: takes the steps.
        source: batches for training.
        valid: data for validation, or None.
        options: options of the training.
        logger: writes the run folder.
        plate: the data plate, or None.
        independent: whether rows of a batch are known not to depend on each other.
        objective: the objective if it is one of pvae's, which may have schedules.
        scaling: what each site counts.
        supports: supports of the observed sites, which all data are compared with.
        fit: the result so far.
        traces: of the model and the guide, on the first batch.
        processes: those that divide the rows of each batch.
    """

    pair: Pair
    svi: SVI
    source: Batches
    valid: Rows | None
    options: Options
    logger: RunLogger
    plate: DataPlate | None
    independent: bool
    objective: Objective | None
    scaling: Scaling
    supports: Supports
    fit: Fit
    traces: tuple[pyro.poutine.Trace, pyro.poutine.Trace]
    processes: Processes
    state: TrainingState = field(init=False)
    steps: Steps = field(init=False)
    validation: Validation = field(init=False)
    _last_batch: tuple[Tensor, ...] = field(default=(), init=False)
    _first_loss: float | None = field(default=None, init=False)
    _diverged: bool = field(default=False, init=False)
    _rollbacks: int = field(default=0, init=False)
    _called_back: bool = field(default=False, init=False)
    _saved_at: float = field(default_factory=time.perf_counter, init=False)
    _had_gradient: set[int] = field(default_factory=set, init=False)
    _interrupts: Interrupts = field(default_factory=Interrupts, init=False)

    def __post_init__(self) -> None:
        self.state = TrainingState(self.pair, self.svi, self.source)
        self.steps = Steps(
            self.pair, self.svi, self.source, self.options, self.scaling, self.processes, self.state
        )
        self.validation = Validation(self.pair, self.valid, self.independent, self.processes)
        if self.options.ema is not None:
            self.state.average = self.fit.average = WeightAverage(self.pair, self.options.ema)
        if self.processes.several:
            self.svi.all_reduce = AllReduce(self.pair.parameters)
            if not self.independent:
                self._note(
                    "rows of a batch depend on each other, and each process computes its own rows: "
                    f"with {self.processes.size} processes the bound is another than with one"
                )

    def run(self, callbacks: Sequence[Callable[[Fit], object]]) -> None:
        """Train until the last epoch, or until there is a reason to stop."""
        state, options = self.state, self.options
        self._called_back = bool(callbacks)
        # Pyro's validation costs time in every step; one epoch shows it every datum.
        validated = state.epoch if pyro.infer.util.is_validation_enabled() else -1
        self.logger.open_bar(state.epoch, options.epochs)
        state.keep()
        try:
            with self._interrupts:
                while state.epoch < options.epochs and not self._out_of_patience():
                    try:
                        row = self._epoch(state.epoch, validate=state.epoch == validated)
                        row |= self._validate()
                    except DivergedError as error:
                        self._roll_back(error)
                        continue
                    if self._end_epoch(row, callbacks):
                        self.fit.stop_reason = "callback"
                        return
            self.fit.stop_reason = "early stopping" if self._out_of_patience() else "all epochs"
        except BaseException as error:
            # As in the last good state, on every way out.
            state.go_back()
            self.fit.history = [row for row in self.fit.history if row["epoch"] <= state.epoch]
            if not isinstance(error, KeyboardInterrupt):
                self.pair.eval()
                raise
            self.fit.stop_reason = "interrupted"

    def _end_epoch(self, row: dict[str, Any], callbacks: Sequence[Callable[[Fit], object]]) -> bool:
        """Log an epoch; returns whether a callback ends the training."""
        self._rollbacks = 0
        self._note_divergence(row)
        self._note_lost_parameters(row["epoch"])
        self.fit.history.append(row)
        ended = [callback(self.fit) is True for callback in callbacks]
        self.state.keep()
        self._saved_at = time.perf_counter()
        self.logger.epoch(row, self.saved())
        flags = [any(ended), self._interrupts.due]
        callback_ended, interrupted = self.processes.any(flags, self.pair.device)
        if interrupted:
            self._interrupt()
        return callback_ended

    def begin(self) -> dict[str, Any]:
        """The state before the first step, as `saved` returns it."""
        self.state.keep()
        return self.saved()

    def saved(self) -> dict[str, Any]:
        """The last good state, with what each process has of its own."""
        own = {key: self.state.good[key] for key in ("generators", "engine")}
        return {**self.state.good, "processes": self.processes.gather(own)}

    def load(self, saved: Mapping[str, Any]) -> None:
        """Restore what `saved` returned, in a training with any number of processes.

        Raises:
            ValueError: if an earlier version saved it.
        """
        if "processes" not in saved:
            raise ValueError(
                "an earlier version of pvae wrote the checkpoint, without what this one needs to "
                "go on: evaluate the run, or train it anew"
            )
        processes = saved["processes"]
        own = processes[min(self.processes.rank, len(processes) - 1)]
        states = [process["generators"] for process in processes]
        generators = self.processes.own_generators(states, saved["step"])
        self.state.load_state_dict({**saved, **own, "generators": generators})

    def _interrupt(self) -> NoReturn:
        self._interrupts.deliver()
        raise KeyboardInterrupt  # that came to another process

    def _roll_back(self, error: DivergedError) -> None:
        """Go back to the last good state, with half the learning rate of the time before.

        Raises:
            DivergedError: if that is not asked for, has been of no use, or is impossible.
        """
        optim, self._rollbacks = self.svi.optim, self._rollbacks + 1
        possible = isinstance(optim, TorchOptim) and self._rollbacks <= _MOST_ROLLBACKS
        if self.options.on_nan != "rollback" or not possible:
            raise error
        self.state.go_back()
        for _ in range(self._rollbacks):  # the state has the rate from before all of them
            scale_learning_rate(optim, 0.5)
        where = f"at site {error.site!r}, " if error.site else ""
        self._note(
            f"the training diverged in step {error.step}, {where}went back to {self._where()} and "
            f"on with a learning rate of {learning_rate_of(optim):g}"
        )

    def _where(self) -> str:
        """What the state is as after."""
        steps = len(self.state.partial.sizes)
        within = f"step {steps} of epoch {self.state.epoch + 1}"
        return within if steps else f"the end of epoch {self.state.epoch}"

    def _epoch(self, number: int, *, validate: bool) -> dict[str, Any]:
        """One pass through the data; no value is read from the device before its end."""
        partial, average = self.state.partial, self.state.average
        if average is not None and not partial.sizes:
            average.include()
        began = time.perf_counter() - partial.seconds
        self.pair.train()
        self.scaling.set_epoch(number)
        if self.objective is not None:
            self.objective.set_epoch(number)
        if self._called_back:  # a callback may change anything
            self.svi.verify_next()
        self.svi.forget_gradients()
        failed, batch = False, partial.batch
        with pyro.validation_enabled(validate):
            for taken in self.steps.epoch(number, self.supports.see if validate else None):
                batch = taken.batch
                if not taken.goes_on:
                    failed = True
                    break
                if average is not None:
                    average.update(self.state.step)
                partial.losses.extend(taken.losses)
                partial.norms.extend(taken.norms)
                partial.sizes += taken.sizes
                interrupted, due = self._to_be_saved()
                if due:
                    partial.seconds, partial.batch = time.perf_counter() - began, batch
                    self._save_within()
                if interrupted:
                    self._interrupt()
        self.supports.raise_errors()
        if self.processes.several:  # statistics of batches are those of the first one's rows
            networks = self.pair.networks.values()
            broadcast([buffer for network in networks for buffer in network.buffers()])
        if failed or not self.steps.healthy():
            self._diverge(number)
        seconds = time.perf_counter() - began
        sizes, kept = torch.tensor(partial.sizes, dtype=torch.float64), ~partial.skipped()
        all_losses, weights = partial.losses.values.cpu()[kept], sizes[kept]
        self.state.epoch, self.state.partial = number + 1, PartialEpoch()
        self._last_batch = batch
        row: dict[str, Any] = {
            "epoch": number + 1,
            "step": self.state.step,
            "train_loss": ((all_losses * weights).sum() / weights.sum()).item(),
            "learning_rate": learning_rate_of(self.svi.optim),
        }
        if self.scaling.beta is not None:
            row["beta"] = self.scaling.beta.item()
        if self.objective is not None:
            row |= self.objective.scheduled()
        if self.options.clip_norm is not None:
            norm_values = partial.norms.values.cpu()
            row["gradient_norm"] = norm_values.mean().item()
            row["clipped"] = (norm_values > self.options.clip_norm).float().mean().item()
        if self.options.on_nan == "skip":
            row["skipped"] = int((~kept)[:: self.options.accumulate].sum())
        if not number:
            self._first_loss = all_losses[0].item()
        row["seconds"] = seconds
        row["loading"] = partial.loading / seconds
        row["examples_per_second"] = sizes.sum().item() / seconds
        end_epoch(self.svi.optim, row["train_loss"])
        return row

    def _to_be_saved(self) -> tuple[bool, bool]:
        """Whether the training is interrupted, and whether a checkpoint is due in mid-epoch."""
        steps, minutes = self.options.save_steps, self.options.save_minutes
        old = minutes is not None and time.perf_counter() - self._saved_at >= 60 * minutes
        interrupted = self._interrupts.due
        if self.processes.several:  # they agree at some steps
            flags = [interrupted, old]
            agree = self.state.step % _AGREE == 0
            interrupted, old = (
                self.processes.any(flags, self.pair.device) if agree else (False,) * 2
            )
        every = steps is not None and self.state.step % steps == 0
        return interrupted, interrupted or old or every

    def _save_within(self) -> None:
        """Save the state in mid-epoch, unless the training has diverged."""
        if self.steps.healthy():
            self.state.keep()
            self.logger.checkpoint(self.saved())
        self._saved_at = time.perf_counter()

    def _note_divergence(self, row: Mapping[str, Any]) -> None:
        """Say so if the loss rose to many times what it was, though it is finite."""
        losses = [self._first_loss, *(known["train_loss"] for known in self.fit.history)]
        best = min((loss for loss in losses if loss is not None), default=row["train_loss"])
        if self._diverged or row["train_loss"] - best < _DIVERGED * max(1.0, abs(best)):
            return
        self._diverged = True
        rate = learning_rate_of(self.svi.optim)
        now = f" (now {rate:g})" if rate is not None else ""
        self._note(
            f"the training diverged in epoch {row['epoch']}: its loss rose from {best:.4g} to "
            f"{row['train_loss']:.4g} nats per datum; lower the learning rate{now}, or give "
            "clip_norm"
        )

    def _note_lost_parameters(self, epoch: int) -> None:
        """Say so if parameters had gradients before, and none in this epoch."""
        now = self.svi.with_gradient
        names = [
            name
            for name, parameter in self.pair.parameters().items()
            if id(parameter) in self._had_gradient and id(parameter) not in now
        ]
        self._had_gradient |= now
        if names:
            self._had_gradient -= {id(self.pair.parameters()[name]) for name in names}
            self._note(
                f"parameters {names} had no gradient in epoch {epoch}, as they had before: if a "
                "program has replaced their network, the new one is not trained"
            )

    def _validate(self) -> dict[str, Any]:
        """The bound and its terms by site, on validation data or else on the last batch."""
        if self.plate is not None and self.plate.subsamples:
            return {}
        try:
            bound = self.validation.bound(self._last_batch)
        except UndefinedQuantityError as error:
            if self.options.patience is not None:
                raise
            what = "no terms by site" if self.valid is None else "no bound on validation data"
            self._note(f"there are {what}: {error}")
            return {}
        except (RuntimeError, ValueError):
            # Parameters may have become so large that the next loss would not be finite.
            site = self._broken_site(self._last_batch)
            if site is None:
                raise
            self._raise_diverged(self.state.step, self.state.epoch, site)
        if bound.points:
            self._note(bound.note)
        if self.valid is None:
            return {"sites": bound.sites}
        if self.options.patience is not None:
            self.state.record_bound(bound.mean)  # the same in all processes
        row: dict[str, Any] = {"valid_elbo": bound.mean, "sites": bound.sites}
        if self.state.average is not None:
            with self.state.average.applied():
                row["valid_elbo_ema"] = self.validation.bound(self._last_batch).mean
        return row

    def _note(self, sentence: str) -> None:
        if sentence not in self.fit.notes:
            self.fit.notes.append(sentence)

    def _out_of_patience(self) -> bool:
        patience = self.options.patience
        return patience is not None and self.state.epochs_since_best >= patience

    def _diverge(self, number: int) -> NoReturn:
        """Restore the last good state and raise, naming the step and the site that failed.

        The steps since that state are repeated with the same random numbers, up to the one that
        failed.
        """
        losses = self.state.partial.losses.values
        broken = next((i for i, x in enumerate(losses.tolist()) if not isfinite(x)), len(losses))
        self.state.go_back()
        first = len(self.state.partial.sizes)
        step = self.state.step + (broken - first) // self.options.accumulate
        spoiled: int | None = None  # the step after which a parameter is not finite
        with pyro.validation_enabled(False):
            for taken, group in enumerate(self.steps.groups(number)):
                place = min(broken - first, len(group) - 1)
                if broken < first + len(group):
                    break
                first += len(group)
                self.steps.take(group)
                if spoiled is None and not self.pair.finite():
                    spoiled = taken
            site = self._broken_site(group[place], self.source.row_numbers(number, first + place))
            if spoiled is not None:
                self.state.go_back()
                for taken, group in enumerate(self.steps.groups(number)):
                    if taken == spoiled:
                        break
                    self.steps.take(group)
        operation = first_nonfinite_operation(lambda: self.svi.pyro_steps(group))
        self._raise_diverged(step, number + 1, site, operation)

    def _broken_site(
        self, batch: tuple[Tensor, ...], numbers: Tensor | None = None
    ) -> BrokenSite | None:
        model, guide = self.svi.model, self.svi.guide
        return first_broken_site(model, guide, batch, self.plate, numbers)

    def _raise_diverged(
        self, step: int, epoch: int, site: BrokenSite | None, operation: str | None = None
    ) -> NoReturn:
        self.state.go_back()
        self.pair.eval()
        kept = (
            self.logger.run.path / "checkpoint.pt"
            if self.logger.run is not None and epoch > 1
            else None
        )
        rate = learning_rate_of(self.svi.optim)
        raise diverged(
            step=step,
            epoch=epoch,
            site=site,
            operation=operation,
            learning_rate=rate,
            restored=self._where(),
            kept=kept,
        )
