"""Time a gradient step of a pair by Pyro's SVI and by pvae's engines, interleaved."""

import functools
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import pyro
import torch
from pyro.infer import ELBO, Trace_ELBO
from pyro.optim import Adam  # type: ignore[attr-defined]
from torch import Tensor

from pvae.engine.precision import check_precision
from pvae.pair.pair import Pair
from pvae.svi import SVI

__all__ = ["PYRO", "Contender", "Timings", "contenders", "machine", "spread"]

_WARM = 3  # rounds that are not counted, in which recordings are made and verified
_TURN = 0.02  # approximate seconds of a contender's turn
PYRO = "Pyro, no validation"

Scope = Callable[[], AbstractContextManager[object]]


@dataclass
class Contender:
    """A way to take a step.

    Attributes:
        step: takes one step.
        scope: makes the context of the steps; entering it is not timed.
        ends: waits until the device has finished.
    """

    step: Callable[[], object]
    scope: Scope = nullcontext
    ends: Callable[[], object] = lambda: None


@dataclass
class Timings:
    """Milliseconds per step, round by round.

    Attributes:
        rounds: by contender.
    """

    rounds: dict[str, list[float]] = field(default_factory=dict)

    @classmethod
    def measure(cls, contenders: Mapping[str, Contender], rounds: int) -> "Timings":
        """Time contenders in turn, so that other load on the machine affects all alike.

        Args:
            contenders: keyed by name.
            rounds: number of turns of each.
        """
        timings = cls({name: [] for name in contenders})
        repeats = dict.fromkeys(contenders, 2)
        for number in range(-_WARM, rounds):
            for name, contender in contenders.items():
                with contender.scope():
                    began = time.perf_counter()
                    for _ in range(repeats[name]):
                        contender.step()
                    contender.ends()
                    each = (time.perf_counter() - began) / repeats[name]
                if number >= 0:
                    timings.rounds[name].append(each * 1e3)
                elif number == -1:
                    repeats[name] = min(100, max(1, round(_TURN / each)))
        return timings

    def ratio(self, name: str, other: str) -> dict[str, float]:
        """Quartiles of one contender's time over another's, taken round by round."""
        pairs = zip(self.rounds[name], self.rounds[other], strict=True)
        return spread([one / two for one, two in pairs])

    def table(self, base: str) -> str:
        """One line per contender: its times, and their ratio to those of another."""
        width = max(map(len, self.rounds))
        lines = []
        for name, values in self.rounds.items():
            own, of_base = spread(values), self.ratio(name, base)["median"]
            low, high = own["lower quartile"], own["upper quartile"]
            times = f"{own['median']:8.3f}  ({low:.3f} to {high:.3f})"
            lines.append(f"{name:<{width}}  {times:<28}{of_base:5.2f} of {base!r}")
        return "\n".join(lines)

    def as_json(self) -> dict[str, object]:
        """Medians and quartiles."""
        return {name: spread(values) for name, values in self.rounds.items()}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4)
    return {"median": middle, "lower quartile": low, "upper quartile": high}


def machine(device: torch.device) -> dict[str, object]:
    """The processor, its threads, and the versions of a timing."""
    cuda = device.type == "cuda"
    cpu = torch.cpu.get_capabilities().get("cpu_name", platform.processor())
    return {
        "device": torch.cuda.get_device_name(device) if cuda else cpu,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "pyro": pyro.__version__,
    }


def contenders(
    model: Callable[..., object],
    guide: Callable[..., object],
    batch: tuple[Tensor, ...],
    objective: ELBO | None = None,
) -> tuple[dict[str, Contender], dict[str, SVI]]:
    """Implementations of a pair's gradient step to compare: Pyro's SVI, and each of pvae's engines.

    Pyro's steps use `pyro.optim.Adam`, with validation (its default) and without; pvae's use
    torch's fused Adam. All train the same parameters.

    Args:
        model: p(x, z).
        guide: q(z | x).
        batch: the arguments of both programs, on the device to compute on.
        objective: the bound (default: `Trace_ELBO()`).

    Returns:
        Contenders keyed by name, and pvae's SVIs keyed by the names of their contenders.
    """
    objective = Trace_ELBO() if objective is None else objective
    device = batch[0].device
    parts = Pair(model, guide)
    parts.to(device)
    parts.train()
    with parts.scope():
        parts.initialize(batch)
    pair = parts.unscoped("model"), parts.unscoped("guide")
    ends = torch.cuda.synchronize if device.type == "cuda" else nullcontext
    found: dict[str, Contender] = {}
    own: dict[str, SVI] = {}
    for name, validate in (("Pyro, as users run it", True), (PYRO, False)):
        svi = pyro.infer.SVI(*pair, Adam({"lr": 1e-3}), objective)
        scope = _scope(parts, validate=validate)
        found[name] = Contender(_step(svi, batch), scope, ends)
    ways = [(engine, "float32") for engine in ("eager", "recorded", "captured")]
    try:
        check_precision("bfloat16", device)
        ways.append(("captured", "bfloat16"))
    except ValueError:
        pass  # the device has no bfloat16
    for engine, precision in ways:
        name = f"pvae {engine}" if precision == "float32" else f"pvae {engine}, {precision}"
        own[name] = SVI(*pair, _adam, objective, engine=engine, precision=precision)
        scope = _scope(parts, validate=False)
        found[name] = Contender(_step(own[name], batch), scope, ends)
    return found, own


def _scope(parts: Pair, *, validate: bool) -> Scope:
    @contextmanager
    def scope() -> Iterator[None]:
        with parts.scope(), pyro.validation_enabled(validate):
            yield

    return scope


def _step(svi: pyro.infer.SVI, batch: tuple[Tensor, ...]) -> Callable[[], object]:
    if isinstance(svi, SVI):
        return functools.partial(svi.step_tensor, batch, divisor=len(batch[0]))
    return functools.partial(svi.step, *batch)


def _adam(parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=1e-3, fused=True)
