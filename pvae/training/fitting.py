"""`fit`: options, preparation, epochs, end, in reading order."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import pyro
import torch
from pyro.infer import ELBO, ReweightedWakeSleep
from pyro.infer.renyi_elbo import RenyiELBO
from pyro.optim import PyroOptim
from torch import Tensor
from torch.optim import Optimizer

from pvae.checking import Finding, PairError, Supports, inspect_pair, program_failed
from pvae.data import Batches, Rows, Splits, batches, rows
from pvae.data.minibatches import default_batch_size
from pvae.engine.optimizers import (
    MakeOptimizer,
    MakeScheduler,
    TorchOptim,
    scale_learning_rate,
)
from pvae.engine.precision import check_precision
from pvae.objectives import Objective, default_objective
from pvae.objectives import get as get_objective
from pvae.pair.pair import Pair, pair_of
from pvae.pair.preserve import preserve_generators, seeded
from pvae.pair.program import names_index
from pvae.pair.traces import PROGRAM_ERRORS
from pvae.svi import SVI
from pvae.training.devices import find_device
from pvae.training.fingerprints import fingerprints
from pvae.training.logger import RunLogger
from pvae.training.loop import Loop
from pvae.training.options import DEFAULT_RATE, Options
from pvae.training.processes import Processes
from pvae.training.result import Fit
from pvae.training.scaling import Scaling

__all__ = ["fit"]


def fit(
    model: Callable[..., object],
    guide: Callable[..., object],
    data: object,
    *,
    objective: ELBO | str | None = None,
    optimizer: PyroOptim | Optimizer | MakeOptimizer | None = None,
    learning_rate: float | None = None,
    scheduler: MakeScheduler | None = None,
    epochs: int = 50,
    batch_size: int | None = None,
    steps_per_epoch: int | None = None,
    data_size: int | None = None,
    valid: object = None,
    missing: Tensor | str | None = None,
    patience: int | None = None,
    warmup: int = 0,
    clip_norm: float | None = None,
    on_nan: str = "stop",
    accumulate: int = 1,
    ema: float | None = None,
    save_steps: int | None = None,
    save_minutes: float | None = 10.0,
    device: str | torch.device = "auto",
    engine: str = "auto",
    precision: str = "float32",
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    allow_changed: bool = False,
    keep: int = 1,
    tensorboard: bool = False,
    callback: Callable[[Fit], object] | Sequence[Callable[[Fit], object]] | None = None,
    progress: bool = True,
    config: Mapping[str, object] | None = None,
) -> Fit:
    """Train a model and a guide, two ordinary Pyro programs, by stochastic variational inference.

    Networks are trained in place and left in eval mode; parameters that are registered by name live
    in a parameter-store scope of the fit. Random number generators are preserved.

    In a process group of `torch.distributed` (started by torchrun, or by the caller), each process
    computes its share of the rows of every batch, with random numbers of its own; the gradients are
    added, so that parameters and bound are those of the whole batch. The first process writes, and
    all processes return the fit.

    References:
        Auto-Encoding Variational Bayes (D. P. Kingma, M. Welling, 2013),
        https://arxiv.org/abs/1312.6114

    Args:
        model: p(x, z): a function, a bound method, an `nn.Module` or a `PyroModule`; called with
            one batch, `model(x)`, or `model(x, y)` if the data are a tuple.
        guide: q(z | x), called with the same arguments.
        data: a tensor of shape (N, ...), a tuple of such, the result of `data.load`, a
            `torch.utils.data.Dataset` or a `DataLoader` (whose batch size is used).
        objective: the bound and its gradient estimator, or its name with options, such as
            "iwae:num_particles=5" (default: `Trace_ELBO()`, or `TraceEnum_ELBO` if a site is marked
            for enumeration).
        optimizer: a `PyroOptim`, a torch `Optimizer`, or a callable from parameters to one
            (default: Adam).
        learning_rate: learning rate of the default optimizer (default: 1e-3).
        scheduler: from a torch optimizer to one of torch's schedulers, which steps once per epoch.
        epochs: passes through the data, counted from the start of the run even if it is resumed.
        batch_size: rows per step (default: 128, or all rows if there are fewer).
        steps_per_epoch: steps that make up an epoch of an endless stream.
        data_size: number of data that global sites are scaled by (default: the rows of the data;
            needed for an endless stream).
        valid: data for validation after each epoch (default: the `valid` split of `data`, if any).
        missing: what is missing of the training data's x, as in `data.Rows`: "nan" for cells that
            are NaN, or a bool tensor. The bound is then that of the seen cells; the guide gets 0
            for the others, and their mask if its signature names `missing`.
        patience: stop after this many epochs without a better validation bound, and keep the best.
        warmup: epochs in which the scale of latent sites rises to 1.
        clip_norm: largest global norm of a step's gradient, in nats per datum.
        on_nan: what to do if the loss becomes NaN or infinite: "stop"; "skip" the steps whose loss
            or gradient is, and count them; or "rollback", which goes on from the last good state
            with half the learning rate. The notes say so.
        accumulate: number of batches whose gradients are added for each step.
        ema: decay of an exponential moving average of the parameters, such as 0.999, with which
            `Fit.averaged` evaluates; `valid_elbo_ema` in the history is its bound.
        save_steps: also write a checkpoint after each so many steps, in mid-epoch (default: none).
        save_minutes: also write one if the last one is so many minutes old; None for none.
        device: "auto", "cpu", "cuda", ...
        engine: "auto", "eager", "recorded" or "captured", as in `SVI`.
        precision: "float32", "tf32" or "bfloat16", as in `SVI`; evaluation uses float32.
        seed: seeds initialization, shuffling, binarization and sampling.
        out: the run folder (default: nothing is written).
        resume: continue from the checkpoint in `out`; refused if programs, data, sites, versions or
            options are not those of the run.
        overwrite: replace the run in `out`.
        allow_changed: resume although they are not; what changed stays in the run's config.json.
        keep: number of checkpoints to keep; one before a damaged one is used instead of it.
        tensorboard: write TensorBoard's files as well (needs the extra of that name).
        callback: called with the `Fit` so far after each epoch, or several such functions; training
            ends if one returns True.
        progress: show a progress bar.
        config: further entries of the run's config.json.

    Returns:
        A `Fit`: `.model`, `.guide`, `.history`, `.notes`.

    Raises:
        PairError: if training would be incorrect; a `ValueError`.
        IncompatibleObjectiveError: if the objective does not fit the pair; a `ValueError`.
        ValueError: if data or options are out of range.
        DivergedError: if the loss becomes NaN or infinite, and `on_nan` is "stop", all steps of an
            epoch would be skipped, or ten rollbacks were of no use; the pair is restored to the
            last good state.
        RuntimeError: if another process of the training ended.

    Example:
        >>> import pvae, pyro, torch
        >>> import pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):
        ...     scale = pyro.param("scale", torch.ones(()), constraint=dist.constraints.positive)
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, scale))
        >>> fit = pvae.fit(model, guide, torch.randn(64), epochs=2, progress=False)
        >>> len(fit.history), fit.stop_reason
        (2, 'all epochs')
    """
    # Options
    if isinstance(data, Splits):
        valid = data.valid if valid is None else valid
        data = data.train
    if patience is not None and valid is None:
        raise ValueError("patience needs data that are not trained on: give valid=")
    place = find_device(device)
    check_precision(precision, place)
    batch_size = default_batch_size(data, missing) if batch_size is None else batch_size
    make_source = partial(
        batches, batch_size=batch_size, device=place, seed=seed, steps_per_epoch=steps_per_epoch
    )
    source = make_source(data, missing=missing)
    if isinstance(objective, str):
        objective = get_objective(objective, x_shape=_first_batch(source)[0].shape[1:])
    own = objective if isinstance(objective, Objective) else None
    numbered = own is not None and own.names_index
    if names_index(guide, 0) and not numbered:  # unless the data have an `index` of their own
        numbered = names_index(guide, len(_first_batch(source)))
    if numbered:
        source = make_source(rows(data, missing=missing).with_index())
    holes = source.missing or missing is not None
    held_out = None
    if valid is not None:
        of_valid = "nan" if holes and not isinstance(valid, Rows) else None
        held_out = rows(valid, levels=source.levels, missing=of_valid).to(place)
    options = Options(
        objective, optimizer, learning_rate, scheduler, epochs, batch_size, steps_per_epoch,
        data_size, patience, warmup, clip_norm, on_nan, accumulate, ema, save_steps, save_minutes,
        engine, precision, seed,
    )  # fmt: skip
    callbacks = [callback] if callable(callback) else list(callback or ())
    processes = Processes(seed)
    first = processes.rank == 0
    logger = RunLogger(
        out if first else None, tensorboard=tensorboard and first, progress=progress and first,
        keep=keep,
    )  # fmt: skip
    _check_processes(processes, options, numbered=numbered)
    pair = _pair(model, guide, place)
    pair.missing = holes
    if numbered:
        pair.index_at = len(_first_batch(source)) - 1
    if own is not None:
        own.rows = source.rows if numbered else None
    with seeded(seed), pair.scope(), closing(logger):
        example = _first_batch(source)
        loop = _prepare(pair, example, source, held_out, options, logger, processes)
        written: dict[str, object] = {**(config or {}), **loop.options.as_json()}
        if out is not None:
            written["fingerprints"] = fingerprints(model, guide, loop.traces, source)
        _start(
            loop, example, written,
            resume=resume, overwrite=overwrite, allow_changed=allow_changed,
        )  # fmt: skip
        loop.run(callbacks)
        _finish(loop)
    return loop.fit


def _first_batch(source: Batches) -> tuple[Tensor, ...]:
    with preserve_generators():
        return source.first()


def _pair(model: Callable[..., object], guide: Callable[..., object], device: torch.device) -> Pair:
    """The pair of the programs, on the device; that of a `Fit` if both programs are its own."""
    pair = pair_of(model, guide)
    if pair is None or model is not pair.model or guide is not pair.guide:
        pair = Pair(model, guide)
    pair.to(device)
    return pair


def _check_processes(processes: Processes, options: Options, *, numbered: bool) -> None:
    """Refuse what cannot be divided among processes.

    Raises:
        ValueError: if something cannot.
    """
    if not processes.several:
        return
    if numbered:
        raise ValueError(
            "guide or objective have values for each row of the data, as chains, which a training "
            f"in {processes.size} processes does not exchange: train in one process"
        )
    if isinstance(options.objective, RenyiELBO | ReweightedWakeSleep):
        raise ValueError(
            f"{type(options.objective).__name__} of Pyro is no sum over the rows of a batch, which "
            f"{processes.size} processes divide: use pvae.objectives.IWAE or RWS"
        )
    if options.batch_size < processes.size:
        raise ValueError(
            f"batch_size {options.batch_size} is below the {processes.size} processes that divide "
            f"a batch: give at least {processes.size}"
        )


def _prepare(
    pair: Pair,
    example: tuple[Tensor, ...],
    source: Batches,
    valid: Rows | None,
    options: Options,
    logger: RunLogger,
    processes: Processes,
) -> Loop:
    """Find the parts of the pair, check it and build the step, each once.

    Raises:
        PairError: if training would be incorrect.
        ValueError: if there is nothing to train.
    """
    objective = options.objective
    own = objective if isinstance(objective, Objective) else None
    if own is not None:
        pair.include(own.networks())
    pair.train()
    try:
        with pyro.validation_enabled(True):
            traces = pair.initialize(example)
    except PROGRAM_ERRORS as error:
        raise program_failed(error, example, pair.elsewhere()) from error
    if objective is None:
        objective = default_objective(*traces)
        options = replace(options, objective=objective)
    pair.train()
    parameters = pair.parameters()
    optim = options.make_optimizer(parameters)
    optimized = optim.optimized() if isinstance(optim, TorchOptim) else set()
    pair.register_optimized(optimized)
    report, inspection = inspect_pair(pair, example, objective)
    if report.errors or inspection is None:
        raise PairError(list(report.findings))
    if inspection.sized and source.rows is not None and source.rows > len(example[0]):
        message = (
            f"the guide has a row of parameters for each of {len(example[0])} data, as autoguides "
            f"over local sites have, and the batches take turns with {source.rows} data, which "
            "would share them: train on all data at once, with batch_size=len(data), or use a "
            "guide that computes q(z | x) from x"
        )
        raise PairError([Finding("error", message)])
    if not parameters:
        raise ValueError(
            "neither program registers a parameter, so there is nothing to train: pass networks to "
            "pyro.module, or make parameters with pyro.param"
        )
    size = options.data_size if options.data_size is not None else source.rows
    scaling = Scaling(
        inspection.plate, inspection.model, size, device=pair.device, warmup=options.warmup
    )
    svi = SVI(
        scaling.wrap(pair.unscoped("model")),
        scaling.wrap(pair.unscoped("guide")),
        optim,
        objective,
        engine=options.engine,
        precision=options.precision,
        clip_norm=options.clip_norm,
    )
    try:
        svi.initialize(example, list(pair.networks.values()))
    except PROGRAM_ERRORS as error:
        raise program_failed(error, example, pair.elsewhere()) from error
    pair.data_size = scaling.plate_size or size
    pair.levels = source.levels
    fit = Fit(pair.model, pair.guide, engine=svi.engine)
    fit.notes = [*map(str, report.findings), *scaling.notes]
    warmup = options.warmup or getattr(objective, "warmup", 0)
    if warmup >= options.epochs > 0:
        fit.notes.append(
            f"the warm-up of {warmup} epochs is not over after the {options.epochs} epochs of this "
            "training, so the last bound is not the one on log p(x)"
        )
    fixed = [name for name, p in parameters.items() if optimized and id(p) not in optimized]
    if fixed:
        fit.notes.append(f"the optimizer was not given parameters {fixed}, so they stay fixed")
    return Loop(
        pair, svi, source, valid, options, logger, inspection.plate,
        inspection.dependent == [], own, scaling, Supports(inspection.model, example), fit, traces,
        processes,
    )  # fmt: skip


def _start(
    loop: Loop,
    example: tuple[Tensor, ...],
    config: Mapping[str, object],
    *,
    resume: bool,
    overwrite: bool,
    allow_changed: bool,
) -> None:
    """Start the run folder, or restore the run to resume."""
    run = loop.logger.run
    loop.fit.run = run.path if run is not None else None
    buffers = [b for network in loop.pair.networks.values() for b in network.buffers()]
    loop.processes.start([*loop.pair.parameters().values(), *buffers])
    before = None
    if loop.processes.rank == 0:
        before = loop.logger.start(
            config, example, "cpu" if loop.processes.several else loop.pair.device,
            resume=resume, overwrite=overwrite, allow_changed=allow_changed,
        )  # fmt: skip
    before = loop.processes.first(before)
    if before is not None:
        state, loop.fit.history, changed = before
        loop.fit.notes += loop.logger.run.notes if loop.logger.run is not None else []
        loop.load(state)
        if "learning_rate" in changed:
            old, new = (DEFAULT_RATE if rate is None else rate for rate in changed["learning_rate"])
            scale_learning_rate(loop.svi.optim, new / old)
    else:
        loop.logger.checkpoint(loop.begin())


def _finish(loop: Loop) -> None:
    """Keep the best parameters and write the summary."""
    loop.fit.engine = loop.svi.engine
    loop.fit.notes += loop.svi.notes
    skipped = sum(row.get("skipped", 0) for row in loop.fit.history)
    if skipped:
        loop.fit.notes.append(
            f"{skipped} of {loop.state.step} steps were skipped, as their loss or gradient was not "
            "finite; the history counts them for each epoch"
        )
    loop.fit.best_epoch = loop.state.restore_best()
    loop.pair.eval()
    loop.logger.summarize(loop.fit, loop.pair.device)
