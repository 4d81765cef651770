"""Training: `fit` takes a pair, data and options, and hands them to the loop."""

from collections.abc import Callable, Mapping, Sized
from pathlib import Path

import torch
from pyro.infer import ELBO
from pyro.optim import PyroOptim
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset, TensorDataset

from pvae.data import DataSet, batches, rows
from pvae.engine.optimizers import MakeOptimizer, MakeScheduler
from pvae.engine.precision import refuse_missing
from pvae.pair.pair import Belongings, belongings_of
from pvae.pair.preserve import seeded
from pvae.training.devices import find_device
from pvae.training.logger import Tracker
from pvae.training.loop import Loop
from pvae.training.options import Options
from pvae.training.result import Fit

__all__ = ["fit"]


def fit(
    model: Callable[..., object],
    guide: Callable[..., object],
    data: object,
    *,
    objective: ELBO | None = None,
    optimizer: PyroOptim | Optimizer | MakeOptimizer | None = None,
    learning_rate: float | None = None,
    scheduler: MakeScheduler | None = None,
    epochs: int = 50,
    batch_size: int | None = None,
    steps_per_epoch: int | None = None,
    data_size: int | None = None,
    valid: object = None,
    patience: int | None = None,
    warmup: int = 0,
    clip_norm: float | None = None,
    device: str | torch.device = "auto",
    engine: str = "auto",
    precision: str = "float32",
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    tensorboard: bool = False,
    callback: Callable[[Fit], object] | None = None,
    progress: bool = True,
    config: Mapping[str, object] | None = None,
) -> Fit:
    """Train a model and a guide, two ordinary Pyro programs, by stochastic variational inference.

    Networks are trained in place and left in eval mode; parameters registered by name live in a
    scope of their own. The generators outside are left as they are.

    References:
        Auto-Encoding Variational Bayes (D. P. Kingma, M. Welling, 2013),
        https://arxiv.org/abs/1312.6114

    Args:
        model: p(x, z): a function, a bound method, an `nn.Module` or a `PyroModule`; called with
            one batch, `model(x)`, or `model(x, y)` where the data are a tuple.
        guide: q(z | x), called with the same arguments.
        data: a tensor of shape (N, ...), a tuple of such, what `data.load` returns, a
            `torch.utils.data.Dataset` or a `DataLoader` (then `batch_size` is the loader's).
        objective: the bound and its gradient estimator, `Trace_ELBO()` where there is none.
        optimizer: a `PyroOptim`, a torch `Optimizer`, or a callable from parameters to one; Adam
            where there is none.
        learning_rate: of that Adam, 1e-3 where it is not given.
        scheduler: from a torch optimizer to one of torch's schedulers, which steps once an epoch.
        epochs: passes through the data, counted from the start of the run also when it is resumed.
        batch_size: data per step: 128 where it is not given, or all data where they are fewer.
        steps_per_epoch: what makes an epoch of an endless stream.
        data_size: the number of data behind an endless stream, by which global sites are weighed.
        valid: data for validation after each epoch; the data set's own split where it has one.
        patience: stop after so many epochs without a better validation bound, and keep the best.
        warmup: epochs in which the weight of latent sites rises to 1.
        clip_norm: largest global norm of a step's gradient, in nats per datum.
        device: "auto", "cpu", "cuda", ...
        engine: "auto", "eager", "recorded" or "captured", as in `SVI`.
        precision: "float32", "tf32" or "bfloat16", as in `SVI`; evaluation is in float32.
        seed: seeds initial draws, shuffling, binarization and sampling.
        out: the run folder; nothing is written where there is none.
        resume: go on from the checkpoint in `out`.
        overwrite: replace the run in `out`.
        tensorboard: also write TensorBoard's files (needs the extra of that name).
        callback: called with the `Fit` so far after each epoch; returning True ends training.
        progress: show a progress bar.
        config: what else to write into the run's config.json.

    Returns:
        The trained pair and its history.

    Raises:
        ValueError: data, options or pair that do not fit; `PairError` where the pair is wrong.
        DivergedError: the loss became NaN or infinite; the pair is left as after the last epoch
            that was good.

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
        >>> len(fit.history), fit.stopped
        (2, 'all epochs')
    """
    if isinstance(data, DataSet):
        valid = data.valid if valid is None else valid
        data = data.train
    if patience is not None and valid is None:
        raise ValueError("patience needs data that are not trained on: give valid=")
    batch_size = _default_batch_size(data) if batch_size is None else batch_size
    options = Options(
        objective, optimizer, learning_rate, scheduler, epochs, batch_size, steps_per_epoch,
        data_size, patience, warmup, clip_norm, engine, precision, seed,
    )  # fmt: skip
    place = find_device(device)
    refuse_missing(precision, place)
    source = batches(
        data, batch_size=batch_size, device=place, seed=seed, steps_per_epoch=steps_per_epoch
    )
    held_out = rows(valid).to(place) if valid is not None else None
    known = belongings_of(model, guide)
    same = known is not None and model is known.model and guide is known.guide
    belongings = known if known is not None and same else Belongings(model, guide)
    belongings.to(place)
    tracker = Tracker(out, tensorboard=tensorboard, progress=progress)
    with seeded(seed), belongings.scope():
        loop = Loop(belongings, source, held_out, options, tracker)
        loop.start({**(config or {}), **options.as_json()}, resume=resume, overwrite=overwrite)
        loop.run(callback)
    return loop.fit


def _default_batch_size(data: object) -> int:
    """128, or the number of data where they are fewer."""
    if isinstance(data, Dataset | DataLoader) and not isinstance(data, TensorDataset):
        size = len(data) if isinstance(data, Sized) and not isinstance(data, DataLoader) else 128
    else:
        size = len(rows(data))
    return min(128, max(1, size))
