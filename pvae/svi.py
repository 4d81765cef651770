"""Stochastic variational inference: Pyro's SVI, with engines that carry out its steps."""

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import pyro
import torch
from pyro.infer import ELBO
from pyro.infer.util import torch_item
from pyro.optim import PyroOptim
from torch import Tensor, nn
from torch.optim import Optimizer

from pvae.engine.optimizers import MakeOptimizer, TorchOptim, put
from pvae.engine.precision import PRECISIONS, Networks, matmul_precision, refuse_missing
from pvae.engine.replay import Replay
from pvae.engine.schedule import TIERS
from pvae.engine.step import Step, eager_step, undone
from pvae.objectives import Objective
from pvae.pair.discovery import reach

__all__ = ["ENGINES", "SVI"]

ENGINES = ("auto", "eager", "recorded", "captured")


class SVI(pyro.infer.SVI):
    """Pyro's SVI, which also takes torch's optimizers and carries out steps from a recorded graph.

    `step` and `evaluate_loss` are Pyro's in all that they return and change. Engines:

    - "eager" is Pyro as it is.
    - "recorded" watches one step and replays its tensor operations, backward pass included, under
      the random numbers that eager would draw. No effect handler runs in a replay.
    - "captured" compiles them too, which takes seconds; on a CUDA device both are CUDA graphs.
    - "auto" is eager for the first 100 steps of a kind, then recorded, and captured after some
      thousands more. The counts depend on the pair alone, so that resumed runs are the same.

    The first step of each kind is Pyro's own, with its errors and warnings. A kind of step is all
    that can be seen to decide its operations: shapes, arguments, modes, parameters, and the
    numbers, texts and sizes of containers that the programs hold. Replays are compared with steps
    of Pyro's when they are new and every so many steps: losses, gradients and buffers. What cannot
    be recorded, or differs, is eager, and `notes` say why.

    What a program does besides computing is not replayed: one that prints prints no more. One that
    counts in a number that it holds stays eager.

    References:
        Stochastic Variational Inference (M. Hoffman, D. Blei, C. Wang, J. Paisley, 2013),
        https://arxiv.org/abs/1206.7051

    Args:
        model: p(x, z).
        guide: q(z | x).
        optim: a `PyroOptim`, a torch `Optimizer`, or a callable from parameters to one.
        loss: a `pyro.infer.ELBO`, or a callable `loss(model, guide, *args)`.
        engine: one of the engines above.
        precision: of the products in networks: "float32" as torch is set, "tf32" on CUDA devices
            or "bfloat16"; parameters, distributions and sums stay in float32.
        clip_norm: gradients of `step_tensor` are scaled to this global norm when theirs is larger.

    Raises:
        ValueError: an unknown engine or precision.
    """

    def __init__(
        self,
        model: Callable[..., object],
        guide: Callable[..., object],
        optim: PyroOptim | Optimizer | MakeOptimizer,
        loss: ELBO | Callable[..., object],
        engine: str = "auto",
        *,
        precision: str = "float32",
        clip_norm: float | None = None,
    ) -> None:
        if engine not in ENGINES:
            raise ValueError(f"unknown engine {engine!r}: the engines are {list(ENGINES)}")
        optim = optim if isinstance(optim, PyroOptim) else TorchOptim(optim)
        super().__init__(model, guide, optim, loss)  # type: ignore[no-untyped-call]
        self._programs = {"model": model, "guide": guide}
        self.clip_norm = clip_norm
        self.precision = precision
        self.steps = 0
        if precision not in PRECISIONS:
            raise ValueError(f"unknown precision {precision!r}: there are {list(PRECISIONS)}")
        self._lowered = Networks() if precision == "bfloat16" else None
        self._pair = (model, guide)
        if self._lowered is not None:
            self._pair = (self._lowered.wrap(model), self._lowered.wrap(guide))
        networks = [network for _, network in reach(self._programs, nn.Module)]
        if isinstance(loss, Objective):
            networks += loss.networks().values()
        self._others = optim.given() if isinstance(optim, TorchOptim) else []
        self.replay: Replay | None = None
        if engine != "eager":
            self.replay = Replay(
                self._pyros_loss_and_grads, self._programs, networks, self._others, TIERS[engine],
                coarse=precision != "float32",
            )  # fmt: skip
        self._divisors: dict[tuple[int, torch.device], Tensor] = {}

    @property
    def engine(self) -> str:
        """What carried out the steps, in words."""
        if self.replay is None or not self.replay.replayed:
            return f"eager: all {self.steps} steps are Pyro's own"
        since = [f"{how} since step {n + 1}" for how, n in self.replay.since.items()]
        return f"{', '.join(since)}: {self.replay.replayed} of {self.steps} steps replayed"

    @property
    def notes(self) -> list[str]:
        """Why steps were not replayed, or had to be recorded again, in sentences."""
        return [] if self.replay is None else self.replay.notes

    def compare_next(self) -> None:
        """Compare the next replay with an eager step."""
        if self.replay is not None:
            self.replay.compare_next = True

    def progress(self) -> dict[str, int]:
        """Steps so far by kind, by which the engine moves on."""
        return {"": self.steps, **({} if self.replay is None else self.replay.counts())}

    def resume(self, progress: Mapping[str, int]) -> None:
        """Go on from what `progress` returned."""
        counts = dict(progress)
        self.steps = counts.pop("", 0)
        if self.replay is not None:
            self.replay.resume(counts)

    def step(self, *args: object, **kwargs: object) -> object:
        """Take a gradient step, as Pyro's `step` does.

        Returns:
            The loss as a float, or a tuple of floats where the objective has several.
        """
        done = self._gradients(args, kwargs)
        self._take(done, None)
        losses = tuple(torch_item(loss) for loss in done.losses)
        return losses if done.several else losses[0]

    def rehearse(self, batch: tuple[Tensor, ...], networks: Sequence[nn.Module]) -> None:
        """Take a step that leaves no trace but in the objective.

        Pyro's objectives may find out the number of plates in their first step, with random numbers
        of their own: after a rehearsal a resumed training draws what one that never stopped draws.

        Args:
            batch: the arguments of model and guide.
            networks: those of the pair.
        """
        with undone(networks):
            eager_step(self._pyros_loss_and_grads, batch, {})

    def step_tensor(self, batch: tuple[Tensor, ...], *, divisor: int = 1) -> tuple[Tensor, Tensor]:
        """Take one gradient step on the loss over a number, without reading it from the device.

        Args:
            batch: the arguments of model and guide.
            divisor: what makes nats per datum of the objective's loss: len(batch) as a rule.

        Returns:
            The divided loss (its first part where the objective has several), and the global norm
            of the divided gradient before clipping (zero where nothing is clipped), of shape ().
        """
        device = batch[0].device
        number = self._divisors.get((divisor, device))
        if number is None:
            number = torch.tensor(float(divisor), device=device)
            self._divisors[divisor, device] = number
        done = self._gradients(batch, {})
        first = cast(float, done.losses[0])
        value = torch.as_tensor(first, device=device, dtype=torch.float32).detach() / number
        norm, by = number, number
        if self.clip_norm is not None and done.gradients:
            norm = nn.utils.get_total_norm(done.gradients) / number
            by = number * ((norm + 1e-6) / self.clip_norm).clamp(min=1.0)
        self._take(done, by)
        return value, norm

    def _take(self, done: Step, divisor: Tensor | None) -> None:
        """A step of the optimizer; gradients are gone after it."""
        if isinstance(self.optim, TorchOptim):
            self.optim.take(done.trained, done.gradients, divisor)
            return
        put(done.trained, done.gradients, divisor)
        self.optim(done.params)
        pyro.infer.util.zero_grads(done.params)

    def _pyros_loss_and_grads(self, *args: object, **kwargs: object) -> object:
        return self.loss_and_grads(*self._pair, *args, **kwargs)

    def _gradients(self, args: tuple[object, ...], kwargs: dict[str, object]) -> Step:
        """Losses and gradients: the one place where engines differ."""
        if not self.steps:
            for tensor in [leaf for leaf in (*args, *kwargs.values()) if isinstance(leaf, Tensor)]:
                refuse_missing(self.precision, tensor.device)
        if self._lowered is not None and not self._lowered.known:
            networks = [network for _, network in reach(self._programs, nn.Module)]
            with undone(networks):
                self._lowered.learn(lambda: eager_step(self._pyros_loss_and_grads, args, kwargs))
        number, self.steps = self.steps, self.steps + 1
        with matmul_precision(self.precision):
            if self.replay is not None:
                return self.replay.step(args, kwargs, number=number)
            return eager_step(self._pyros_loss_and_grads, args, kwargs, others=self._others)
