"""The loop over epochs and batches, top to bottom."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import pyro
import torch
from torch import Tensor

from pvae.checking import OF_PROGRAMS, PairError, Supports, examine, program_failed
from pvae.data import Batches, Rows
from pvae.engine.optimizers import TorchOptim, end_epoch, learning_rate_of
from pvae.evaluation import UndefinedError, elbo
from pvae.objectives import Objective
from pvae.pair.log_prob import data_plate
from pvae.pair.pair import Belongings
from pvae.pair.preserve import preserved
from pvae.svi import SVI
from pvae.training.checkpoint import save_checkpoint
from pvae.training.divergence import diverged, first_broken_site
from pvae.training.logger import Tracker
from pvae.training.options import Options
from pvae.training.result import Fit
from pvae.training.scaling import Weighting
from pvae.training.state import Progress

__all__ = ["Loop"]


class Loop:
    """The loop over epochs and batches, with what it needs made once before."""

    def __init__(
        self,
        belongings: Belongings,
        source: Batches,
        valid: Rows | None,
        options: Options,
        tracker: Tracker,
    ) -> None:
        self.belongings, self.source, self.valid = belongings, source, valid
        self.options, self.tracker = options, tracker
        objective = options.make_objective()
        self.objective = objective if isinstance(objective, Objective) else None
        if self.objective is not None:
            belongings.include(self.objective.networks())
        belongings.train()
        with preserved():
            self.example = next(source.epoch(0))
        try:
            with pyro.validation_enabled(True):  # distributions remember how they were made
                traces = belongings.discover(self.example)
            self.plate = data_plate(belongings.discover, self.example)
        except OF_PROGRAMS as error:
            raise program_failed(error, self.example, belongings.elsewhere()) from error
        belongings.train()
        self.supports = Supports(traces[0], self.example)
        size = source.rows if source.rows is not None else options.data_size
        self.weighting = Weighting(
            self.plate, traces[0], size, device=belongings.device, warmup=options.warmup
        )
        parameters = belongings.parameters()
        optim = options.make_optimizer(parameters)
        optimized = optim.optimized() if isinstance(optim, TorchOptim) else set()
        belongings.adopt(optimized)
        report = examine(belongings, self.example, objective)
        if report.errors:
            raise PairError(list(report.findings))
        if not parameters:
            raise ValueError(
                "neither program registers a parameter: nothing would be trained; pass networks to "
                "pyro.module, or make parameters with pyro.param"
            )
        self.svi = SVI(
            self.weighting.wrap(belongings.bare("model")),
            self.weighting.wrap(belongings.bare("guide")),
            optim,
            objective,
            options.engine,
            precision=options.precision,
            clip_norm=options.clip_norm,
        )
        try:
            self.svi.rehearse(self.example, list(belongings.networks.values()))
        except OF_PROGRAMS as error:
            raise program_failed(error, self.example, belongings.elsewhere()) from error
        self.progress = Progress(belongings, self.svi)
        self.fit = Fit(belongings.model, belongings.guide, engine=self.svi.engine)
        self.fit.notes = [*map(str, report.findings), *self.weighting.notes]
        left = [name for name, p in parameters.items() if optimized and id(p) not in optimized]
        if left:
            self.fit.notes.append(f"the optimizer was not given parameters {left}: they stay fixed")

    def start(self, config: Mapping[str, object], *, resume: bool, overwrite: bool) -> None:
        """Begin the run, or go back to where it stopped."""
        self.fit.run = self.tracker.run.path if self.tracker.run is not None else None
        before = self.tracker.start(
            config, self.example, self.belongings.device, resume=resume, overwrite=overwrite
        )
        if before is not None:
            state, self.fit.history = before
            self.progress.restore(state)
        elif self.tracker.run is not None:
            save_checkpoint(self.tracker.run.checkpoint, self.progress.state())

    def run(self, callback: Callable[[Fit], object] | None) -> None:
        """Epoch after epoch, until there is a reason to stop."""
        progress, options = self.progress, self.options
        # Pyro's validation costs time in every step; one epoch shows it every datum.
        validated = progress.epoch if pyro.infer.util.is_validation_enabled() else -1
        self.tracker.open_bar(progress.epoch, options.epochs)
        good = progress.state()
        try:
            while progress.epoch < options.epochs and not self._waited_enough():
                row = self._epoch(progress.epoch, good, validate=progress.epoch == validated)
                row |= self._validate()
                self.fit.history.append(row)
                ended = callback is not None and callback(self.fit) is True
                good = progress.state()
                self.tracker.epoch(row, good)
                if ended:
                    self.fit.stopped = "callback"
                    break
            else:
                self.fit.stopped = "early stopping" if self._waited_enough() else "all epochs"
        except KeyboardInterrupt:
            progress.restore(good)
            self.fit.history = self.fit.history[: progress.epoch]
            self.fit.stopped = "interrupted"
        self.fit.engine = self.svi.engine
        self.fit.notes += self.svi.notes
        self.fit.best_epoch = progress.keep_best()
        self.belongings.eval()
        self.tracker.close(self.fit, self.belongings.device)

    def _epoch(self, number: int, good: Mapping[str, Any], *, validate: bool) -> dict[str, Any]:
        """One pass through the data; no value is read from the device before its end."""
        began = time.perf_counter()
        self.belongings.train()
        self.weighting.set_epoch(number)
        if self.objective is not None:
            self.objective.set_epoch(number)
        self.svi.compare_next()
        losses: list[Tensor] = []
        norms: list[Tensor] = []
        sizes: list[int] = []
        with pyro.validation_enabled(validate):
            for batch in self.source.epoch(number):
                if validate:
                    self.supports.see(batch)
                try:
                    loss, norm = self._step(batch)
                except (RuntimeError, ValueError) as error:
                    if self.belongings.finite() and _finite(losses):
                        elsewhere = self.belongings.elsewhere()
                        raise program_failed(error, batch, elsewhere) from error
                    break
                losses.append(loss)
                norms.append(norm)
                sizes.append(len(batch[0]))
        try:
            self.supports.refuse()
        except PairError:
            self.progress.restore(good)
            raise
        if not (losses and _finite(losses) and self.belongings.finite()):
            self._diverge(number, losses, good)
        seconds = time.perf_counter() - began
        weights = torch.tensor(sizes, dtype=torch.float64)
        self.progress.epoch = number + 1
        self.last_batch = batch
        row: dict[str, Any] = {
            "epoch": number + 1,
            "step": self.progress.step,
            "train_loss": ((torch.stack(losses).cpu() * weights).sum() / weights.sum()).item(),
            "learning_rate": learning_rate_of(self.svi.optim),
        }
        if self.weighting.beta is not None:
            row["beta"] = self.weighting.beta.item()
        if self.objective is not None:
            row |= self.objective.scheduled()
        if self.options.clip_norm is not None:
            norm_values = torch.stack(norms).cpu()
            row["gradient_norm"] = norm_values.mean().item()
            row["clipped"] = (norm_values > self.options.clip_norm).float().mean().item()
        row["seconds"] = seconds
        row["examples_per_second"] = sum(sizes) / seconds
        end_epoch(self.svi.optim, row["train_loss"])
        return row

    def _step(self, batch: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """One gradient step."""
        divisor = self.weighting.set_batch(len(batch[0]))
        self.progress.step += 1
        return self.svi.step_tensor(batch, divisor=divisor)

    def _validate(self) -> dict[str, Any]:
        """The bound and its terms by site, on validation data or else on the last batch."""
        model, guide = self.belongings.model, self.belongings.guide
        if self.plate is not None and self.plate.subsamples:
            return {}
        try:
            bound = elbo(model, guide, self.last_batch if self.valid is None else self.valid)
        except UndefinedError as error:
            if self.valid is not None:
                raise
            self._note(f"there are no terms by site: {error}")
            return {}
        if self.valid is None:
            return {"sites": bound.sites}
        if self.options.patience is not None:
            self.progress.judge(bound.mean)
        return {"valid_elbo": bound.mean, "sites": bound.sites}

    def _note(self, sentence: str) -> None:
        if sentence not in self.fit.notes:
            self.fit.notes.append(sentence)

    def _waited_enough(self) -> bool:
        patience = self.options.patience
        return patience is not None and self.progress.waited >= patience

    def _diverge(self, number: int, losses: list[Tensor], good: Mapping[str, Any]) -> NoReturn:
        """Go back to the last good state, and say which site broke at which step.

        The epoch is replayed with the same random numbers up to the step that broke.
        """
        broken = next((i for i, x in enumerate(losses) if not torch.isfinite(x)), len(losses))
        self.progress.restore(good)
        step = self.progress.step + broken
        with pyro.validation_enabled(False):
            for index, batch in enumerate(self.source.epoch(number)):
                if index == broken:
                    break
                self._step(batch)
            site = first_broken_site(self.svi.model, self.svi.guide, batch)
        self.progress.restore(good)
        self.belongings.eval()
        kept = self.tracker.run.checkpoint if self.tracker.run is not None and number > 0 else None
        rate = learning_rate_of(self.svi.optim)
        raise diverged(step=step, epoch=number + 1, site=site, learning_rate=rate, kept=kept)


def _finite(losses: list[Tensor]) -> bool:
    return not losses or bool(torch.isfinite(torch.stack(losses)).all())
