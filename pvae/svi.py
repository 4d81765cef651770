"""Stochastic variational inference: Pyro's SVI with engines that execute its steps."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import cast

import pyro
import torch
from pyro.infer import ELBO
from pyro.infer.util import torch_item
from pyro.optim import PyroOptim
from torch import Tensor, nn
from torch.optim import Optimizer

from pvae.data import Rows
from pvae.engine.accumulation import GradientSum, finite
from pvae.engine.all_reduce import AllReduce
from pvae.engine.cache_key import describe_arguments
from pvae.engine.many_steps import ManySteps
from pvae.engine.optimizers import MakeOptimizer, TorchOptim
from pvae.engine.precision import PRECISIONS, NetworkAutocast, check_precision, matmul_precision
from pvae.engine.recording import on_cuda
from pvae.engine.replay import Replay
from pvae.engine.schedule import SCHEDULES
from pvae.engine.step import Step, eager_step
from pvae.engine.updates import Updates
from pvae.objectives import Objective, require_instance
from pvae.pair.discovery import reach
from pvae.pair.preserve import preserve_state

__all__ = ["ENGINES", "SVI"]

ENGINES = ("auto", "eager", "recorded", "captured")


class SVI(pyro.infer.SVI):
    """Pyro's SVI, which also takes torch's optimizers and replays recorded steps.

    `step` and `evaluate_loss` return and change what Pyro's do. Engines:

    - "eager" executes every step as Pyro does.
    - "recorded" records the tensor operations of one step, backward pass included, and replays them
      with the random numbers that Pyro would draw. No effect handler runs in a replay.
    - "captured" compiles the recording, which takes seconds, and keeps what was compiled for a CPU
      in $PVAE_CACHE (by default the system's folder for caches), where the next start finds it.
      On a CUDA device, recorded and captured steps are CUDA graphs, of one step or, in
      `run_steps` and in `fit` with rows on the device, of up to 64.
    - "auto" is eager for the first 20 steps with a cache key, then recorded, and captured after as
      many steps as take about as long as the compilation, estimated by counting operations. The
      numbers of steps depend on the pair and its batches alone, so that resumed runs are the same.

    Recordings are cached by shapes, modes, parameters and captured Python values: numbers, strings
    and flags that the programs refer to, and what lists, dicts, sets and arrays of up to 64 items
    hold, four levels deep. What a step reads of tensors, as `int(lengths.max())` does, is a guard:
    a step is replayed if it would read the same. The first step with each key is Pyro's own, with
    its errors and warnings. Replays are verified when they are new and at intervals: their losses,
    gradients and buffers are compared with those of Pyro's step. Steps that cannot be recorded,
    that differ, or that run inside effect handlers or `torch.autocast`, are eager, and `notes` says
    why. A replay that fails is reversed, and the step is eager.

    On a CPU, all engines but "eager" take the steps of torch's and Pyro's Adam, AdamW and
    ClippedAdam by torch's fused kernel, on the optimizer's own state: results differ by rounding.

    Side effects such as printing are not replayed. A program that counts its calls in an attribute
    of its own stays eager.

    References:
        Stochastic Variational Inference (M. Hoffman, D. Blei, C. Wang, J. Paisley, 2013),
        https://arxiv.org/abs/1206.7051

    Args:
        model: p(x, z).
        guide: q(z | x).
        optim: a `PyroOptim`, a torch `Optimizer`, or a callable from parameters to one.
        loss: a `pyro.infer.ELBO`, or a callable `loss(model, guide, *args)`.
        loss_and_grads: as in Pyro, for a callable `loss`.
        num_samples: as in Pyro (deprecated there).
        num_steps: as in Pyro (deprecated there).
        engine: one of the engines above.
        precision: precision of the matrix products in networks: "float32", which follows torch's
            setting, "tf32" (CUDA devices) or "bfloat16", which on a CPU is for products of at
            least 2^24 multiplications. Parameters, distributions and sums are float32.
        clip_norm: largest global norm of the pair's gradient in `step_tensor` (default: no
            clipping); networks of the objective, such as a baseline, are clipped by themselves.
        **kwargs: as in Pyro.

    Raises:
        ValueError: if the engine or precision is unknown, or the device lacks the precision.
        TypeError: if `loss_and_grads` is a string, or `loss` is a class.

    Example:
        >>> import pyro.distributions as dist
        >>> from pyro.infer import Trace_ELBO
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):
        ...     loc = pyro.param("loc", torch.zeros(()))
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(loc, 1.0))
        >>> svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO(), engine="recorded")
        >>> losses = [svi.step(torch.ones(8)) for _ in range(20)]  # nats, summed over the batch
        >>> svi.engine
        'recorded since step 2: 19 of 20 steps replayed'
    """

    def __init__(
        self,
        model: Callable[..., object],
        guide: Callable[..., object],
        optim: PyroOptim | Optimizer | MakeOptimizer,
        loss: ELBO | Callable[..., object],
        loss_and_grads: Callable[..., object] | None = None,
        num_samples: int = 0,
        num_steps: int = 0,
        *,
        engine: str = "auto",
        precision: str = "float32",
        clip_norm: float | None = None,
        **kwargs: object,
    ) -> None:
        if isinstance(loss_and_grads, str):
            raise TypeError(
                f"loss_and_grads is {loss_and_grads!r}, not a callable: give the engine by its "
                f"name, engine={loss_and_grads!r}"
            )
        require_instance(loss)
        if engine not in ENGINES:
            raise ValueError(f"unknown engine {engine!r}: give one of {list(ENGINES)}")
        if precision not in PRECISIONS:
            raise ValueError(f"unknown precision {precision!r}: give one of {list(PRECISIONS)}")
        optim = optim if isinstance(optim, PyroOptim) else TorchOptim(optim)
        super().__init__(  # type: ignore[no-untyped-call]
            model, guide, optim, loss, loss_and_grads, num_samples, num_steps, **kwargs
        )
        self._programs = {"model": model, "guide": guide}
        self.clip_norm = clip_norm
        self.precision = precision
        self.steps = 0
        self._autocast = NetworkAutocast() if precision == "bfloat16" else None
        self._executed = (model, guide)
        if self._autocast is not None:
            self._executed = (self._autocast.wrap(model), self._autocast.wrap(guide))
        networks = [network for _, network in reach(self._programs, nn.Module)]
        of_objective = loss.networks().values() if isinstance(loss, Objective) else []
        networks += of_objective
        self._own = {id(p) for network in of_objective for p in network.parameters()}
        self.networks = networks
        self.all_reduce: AllReduce | None = None
        self._sum: GradientSum | None = None
        self.with_gradient: set[int] = set()  # ids of the parameters that had one
        self._last_trained: list[Tensor] = []
        self.updates = Updates(optim, replace=engine != "eager")
        self._others = optim.given() if isinstance(optim, TorchOptim) else []
        self.replay: Replay | None = None
        if engine != "eager":
            self.replay = Replay(
                self._loss_and_grads, self._programs, networks, self._others, SCHEDULES[engine],
                coarse=precision != "float32",
            )  # fmt: skip
        self._divisors: dict[tuple[int, torch.device], Tensor] = {}
        self.batch: tuple[Tensor, ...] = ()  # the last one of `run_steps`
        self._arguments: tuple[Rows | None, int, tuple[object, ...] | None] = None, 0, None
        self._many: dict[int, ManySteps] = {}  # by rows of a batch
        self._given: tuple[tuple[Tensor, ...], Rows | None] = (), None

    @property
    def engine(self) -> str:
        """How the steps were executed so far, in words."""
        if self.replay is None or not self.replay.replayed:
            return f"eager: all {self.steps} steps are Pyro's own"
        since = [f"{how} since step {n + 1}" for how, n in self.replay.since.items()]
        return f"{', '.join(since)}: {self.replay.replayed} of {self.steps} steps replayed"

    @property
    def notes(self) -> list[str]:
        """Why steps were not replayed, or were recorded again, in sentences."""
        return [] if self.replay is None else self.replay.notes

    def forget_gradients(self) -> None:
        """Begin anew to collect `with_gradient`."""
        self.with_gradient, self._last_trained = set(), []

    def verify_next(self) -> None:
        """Verify the next replay against an eager step."""
        if self.replay is not None:
            self.replay.verify_next = True

    def counts(self) -> dict[str, int]:
        """Number of steps by their arguments, which decide when the engine records and compiles."""
        return {"": self.steps, **({} if self.replay is None else self.replay.counts())}

    def resume(self, counts: Mapping[str, int]) -> None:
        """Continue from what `counts` returned."""
        counts = dict(counts)
        self.steps, self._sum = counts.pop("", 0), None
        if self.replay is not None:
            self.replay.resume(counts)

    def step(self, *args: object, **kwargs: object) -> object:
        """Take a gradient step, as Pyro's `step` does.

        Returns:
            The loss as a float, or a tuple of floats if the objective has several.
        """
        done = self._gradients(args, kwargs)
        self.updates(done, None)
        losses = tuple(torch_item(loss) for loss in done.losses)
        return losses if done.several else losses[0]

    def initialize(self, batch: tuple[Tensor, ...], networks: Sequence[nn.Module]) -> None:
        """Take a step that changes nothing but the objective.

        Pyro's objectives may find out the number of plates in their first step, with random numbers
        of their own. After this step, a resumed training draws what an uninterrupted one draws.

        Args:
            batch: the arguments of model and guide.
            networks: those of the pair.
        """
        with preserve_state(networks):
            eager_step(self._loss_and_grads, batch, {})

    def pyro_steps(self, batches: Sequence[tuple[Tensor, ...]]) -> None:
        """Compute losses and gradients of batches as Pyro does, and keep neither."""
        for batch in batches:
            done = eager_step(self._loss_and_grads, batch, {}, others=self._others)
            for parameter in done.params:
                parameter.grad = None

    def accumulate(
        self, batch: tuple[Tensor, ...], *, divisor: int = 1, skip_nonfinite: bool = False
    ) -> Tensor:
        """Add the gradient of a batch to that of the next `step_tensor`.

        That step follows the sum of the gradients over the sum of their divisors.

        Args:
            batch: the arguments of model and guide.
            divisor: as in `step_tensor`.
            skip_nonfinite: likewise.

        Returns:
            The divided loss, shape () (its first part if the objective has several).
        """
        if self._sum is None:
            self._sum = GradientSum(self.networks if skip_nonfinite else [])
        try:
            done = self._gradients(batch, {})
        except Exception:
            self._sum.restore_buffers()
            self._sum = None
            raise
        self._sum.add(done, divisor)
        return self._first_loss(done, self._number(divisor, batch[0].device))

    def step_tensor(
        self, batch: tuple[Tensor, ...], *, divisor: int = 1, skip_nonfinite: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Take a gradient step on the loss divided by a number, without reading the device.

        Args:
            batch: the arguments of model and guide.
            divisor: turns the objective's loss into nats per datum: usually len(batch).
            skip_nonfinite: change no parameter, buffer or state of the optimizer if the loss or the
                gradient is not finite; this reads the device.

        Returns:
            The divided loss, shape () (its first part if the objective has several), which is not
            finite if the step was skipped; and the global norm of the divided gradient before
            clipping, shape (), or None without `clip_norm`.
        """
        total = self._sum
        if total is None and skip_nonfinite:
            total = GradientSum(self.networks)
        self._sum = None
        number = self._number(divisor, batch[0].device)
        try:
            done = self._gradients(batch, {})
        except Exception:
            if total is not None:
                total.restore_buffers()
            raise
        value = self._first_loss(done, number)
        if total is not None and total.divisor:
            number = self._number(total.divisor + divisor, batch[0].device)
            done = total.plus(done)
        if self.all_reduce is not None:
            done, value, number = self.all_reduce(done, value, number)
        if total is not None and skip_nonfinite and not finite([value, *done.gradients]):
            total.restore_buffers()
            for parameter in done.params:
                parameter.grad = None
            return torch.full_like(value, torch.nan), None
        return value, self._clipped_update(done, number, self.updates)

    def run_steps(
        self,
        data: Rows | Tensor | Sequence[Tensor],
        index: Tensor,
        *,
        divisor: int = 1,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Take a gradient step on each of several batches of rows, as `step_tensor` does.

        On a CUDA device, steps that are replayed with torch's fused Adam are launched up to 64 at
        a time, with the choice of their rows, clipping and updates. They return and draw what
        single steps do.

        Args:
            data: what model and guide get rows of, on the device to compute on.
            index: row numbers of each batch, int64 (steps, rows), on the same device.
            divisor: as in `step_tensor`.
            generator: for dynamic binarization, as in `Rows.arguments`.

        Returns:
            As `step_tensor`, for each step: (steps,).

        Example:
            >>> import pvae
            >>> size = {"x_shape": (8,), "z_dim": 2, "hidden": 4}
            >>> model, guide = pvae.models.VAE(**size), pvae.guides.MeanField(**size)
            >>> adam = lambda parameters: torch.optim.Adam(parameters, fused=True)
            >>> svi = SVI(model, guide, adam, pyro.infer.Trace_ELBO())
            >>> rows = torch.rand(100, 8).round()
            >>> losses, _ = svi.run_steps(rows, torch.randperm(100).view(10, 10), divisor=10)
            >>> losses.shape  # nats per datum
            torch.Size([10])
        """
        if not isinstance(data, Rows):
            data = self._rows((data,) if isinstance(data, Tensor) else tuple(data))
        taken = list(self.launches(data, index, divisor=divisor, generator=generator))
        losses = [losses for losses, _ in taken]
        norms = [norms for _, norms in taken if norms is not None]
        if not taken:
            return torch.zeros(0, device=index.device), None
        return torch.cat(losses), torch.cat(norms) if norms else None

    def _rows(self, given: tuple[Tensor, ...]) -> Rows:
        """Tensors as rows; the same ones are the same rows, for which there are graphs already."""
        known, rows = self._given
        if rows is None or list(map(id, known)) != list(map(id, given)):
            self._given = given, Rows(*given)
        return cast(Rows, self._given[1])

    def launches(
        self,
        data: Rows,
        index: Tensor,
        *,
        divisor: int = 1,
        generator: torch.Generator | None = None,
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Take the steps of `run_steps`, and yield their losses and norms launch by launch."""
        place = 0
        while place < len(index):
            done = self._unattended(data, index[place:], divisor, generator)
            if done is None:
                self.batch = data.arguments(index[place], generator)
                self._arguments = data, index.shape[1], describe_arguments(self.batch, {})
                loss, norm = self.step_tensor(self.batch, divisor=divisor)
                done = loss.view(1), None if norm is None else norm.view(1)
            place += len(done[0])
            yield done

    def _unattended(
        self, data: Rows, index: Tensor, divisor: int, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor | None] | None:
        """Several steps in one launch; None if the next one has to be taken by itself."""
        known, rows, arguments = self._arguments
        if known is not data or rows != index.shape[1] or arguments is None:
            return None
        if self.replay is None or not on_cuda((index,)) or self._sum or self.all_reduce:
            return None
        next_ones = self.replay.unattended(arguments, self.steps)
        if next_ones is None or not isinstance(self.optim, TorchOptim):
            return None
        adam = self.updates.fused_adam(next_ones.recording.trained)
        if adam is None:
            return None
        number, many = self._number(divisor, index.device), self._many.get(rows)
        if many is None or not many.serves(next_ones.recording, adam, data, number):
            many = ManySteps(next_ones.recording, adam, data, number, self._clipped_update)
            self._many[rows] = many
        with matmul_precision(self.precision):
            done = many(index[: next_ones.steps], generator)
        self._note_trained(next_ones.recording.trained)
        self.replay.count(next_ones, len(done[0]))
        self.steps += len(done[0])
        self.batch = many.batch
        return done

    def spoil(self, *, skip_nonfinite: bool = False) -> Tensor:
        """Take part in a step of all processes that raised an error in this one.

        Its loss and gradient become NaN in all of them.
        """
        assert self.all_reduce is not None
        nothing = Step((torch.nan,), False, [], [], [])
        done, value, number = self.all_reduce.spoil(nothing)
        if not skip_nonfinite:
            self._clipped_update(done, number, self.updates)
        return value

    def _number(self, divisor: int, device: torch.device) -> Tensor:
        """A number as a tensor, made once."""
        number = self._divisors.get((divisor, device))
        if number is None:
            number = torch.tensor(float(divisor), device=device)
            self._divisors[divisor, device] = number
        return number

    def _first_loss(self, done: Step, number: Tensor) -> Tensor:
        first = cast(float, done.losses[0])
        loss = torch.as_tensor(first, device=number.device, dtype=torch.float32)
        return loss.detach() / number

    def _clipped_update(
        self, done: Step, number: Tensor, update: Callable[[Step, Tensor], None]
    ) -> Tensor | None:
        """Update the parameters, and return the norm of the gradient if it is clipped."""
        if self.clip_norm is None:
            update(done, number)
            return None
        if not done.gradients:
            update(done, number)
            return torch.zeros((), device=number.device)
        own = [id(p) in self._own for p in done.trained]
        norm = _norm(done.gradients, own, False) / number
        excess = ((norm + 1e-6) / self.clip_norm).clamp(min=1.0)
        if any(own):  # the objective's networks have another loss, and are clipped by themselves
            theirs = ((_norm(done.gradients, own, True) / number + 1e-6) / self.clip_norm).clamp(
                min=1
            )
            pairs = zip(done.gradients, own, strict=True)
            done = replace(done, gradients=[g * (excess / theirs) if o else g for g, o in pairs])
        update(done, number * excess)
        return norm

    def _loss_and_grads(self, *args: object, **kwargs: object) -> object:
        return self.loss_and_grads(*self._executed, *args, **kwargs)

    def _gradients(self, args: tuple[object, ...], kwargs: dict[str, object]) -> Step:
        """Losses and gradients: the one place where engines differ."""
        if not self.steps:
            for tensor in [leaf for leaf in (*args, *kwargs.values()) if isinstance(leaf, Tensor)]:
                check_precision(self.precision, tensor.device)
        if self._autocast is not None and not self._autocast.known:
            networks = [network for _, network in reach(self._programs, nn.Module)]
            with preserve_state(networks):
                self._autocast.learn(lambda: eager_step(self._loss_and_grads, args, kwargs))
        number, self.steps = self.steps, self.steps + 1
        with matmul_precision(self.precision):
            if self.replay is not None:
                done = self.replay.step(args, kwargs, number=number)
            else:
                done = eager_step(self._loss_and_grads, args, kwargs, others=self._others)
        self._note_trained(done.trained)
        return done

    def _note_trained(self, trained: list[Tensor]) -> None:
        if trained is not self._last_trained:  # replays return the same list
            self._last_trained = trained
            self.with_gradient.update(map(id, trained))


def _norm(gradients: list[Tensor], chosen: list[bool], which: bool) -> Tensor:
    return nn.utils.get_total_norm(
        [g for g, own in zip(gradients, chosen, strict=True) if own is which]
    )
