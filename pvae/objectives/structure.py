"""The structure of a pair: its data plate, its sites, and how its particles are drawn."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from pyro import poutine
from torch import Tensor, nn

from pvae.pair.discovery import reach
from pvae.pair.log_prob import own_scale
from pvae.pair.particles import Particles
from pvae.pair.plate import DataPlate, find_data_plate
from pvae.pair.preserve import preserve_generators
from pvae.pair.traces import latent_sites, paired_traces, sample_sites
from pvae.pair.vectorized_guide import vectorized_particles

__all__ = ["IncompatibleObjectiveError", "PairStructure", "Program", "find_structure"]

Program = Callable[..., object]


class IncompatibleObjectiveError(ValueError):
    """An objective that does not fit a pair; the message says why, and which one does.

    Example:
        >>> import pvae, torch
        >>> model = pvae.models.HelmholtzMachine(x_shape=(4,), dims=(3,), latent="bernoulli")
        >>> guide = pvae.guides.BottomUp(x_shape=(4,), dims=(3,), latent="bernoulli")
        >>> x = torch.rand(32, 4).round()
        >>> try:
        ...     bound = pvae.objectives.IWAE(5).loss(model, guide, x)
        ... except pvae.IncompatibleObjectiveError as error:
        ...     print(error)
        IWAE needs reparameterized draws, and sites ['z1'] of the guide are not ...
    """


@dataclass(frozen=True)
class PairStructure:
    """What an objective knows about a pair before its first step.

    Attributes:
        model: p(x, z).
        guide: q(z | x).
        plate: the data plate.
        particles: draws particles from the pair.
        model_trace: trace of the model on the first batch, replayed against `guide_trace`.
        guide_trace: trace of the guide on the first batch.
        parameters: keyed by name: those that either program registers, that belong to a network
            it reaches, or that its log-probabilities depend on.
        sized: whether the data plate's size is that of the full data set, with each batch a
            subsample.

    Example:
        >>> import pvae, torch
        >>> model = pvae.models.VAE(x_shape=(4,), z_dim=2, hidden=8)
        >>> guide = pvae.guides.MeanField(x_shape=(4,), z_dim=2, hidden=8)
        >>> x = torch.rand(32, 4).round()
        >>> structure = pvae.objectives.IWAE(5).prepare(model, guide, x)
        >>> structure.plate.name, structure.discrete, structure.global_sites
        ('data', [], [])
        >>> structure.particles.draw((x,), 3).log_weights.shape  # (particles, rows), nats
        torch.Size([3, 32])
    """

    model: Program
    guide: Program
    plate: DataPlate
    particles: Particles
    model_trace: poutine.Trace
    guide_trace: poutine.Trace
    parameters: dict[str, Tensor]
    sized: bool

    def scale(self, rows: int) -> float:
        """The factor from the sum over a batch of this many rows to the program's own scale."""
        return self.plate.full_size / rows if self.sized else 1.0

    @property
    def discrete(self) -> list[str]:
        """Sites of the guide that are not reparameterized."""
        sites = latent_sites(self.guide_trace)
        return [name for name, site in sites.items() if not site["fn"].has_rsample]

    @property
    def global_sites(self) -> list[str]:
        """Global sites of the guide."""
        sites = latent_sites(self.guide_trace)
        return [name for name, site in sites.items() if self.plate.frame(site) is None]


def find_structure(
    name: str, model: Program, guide: Program, batch: tuple[Any, ...], *, several: bool
) -> PairStructure:
    """Find the structure of a pair.

    Args:
        name: name of the objective.
        model: p(x, z).
        guide: q(z | x).
        batch: the arguments of the programs, each of shape (rows, ...).
        several: whether there is more than one particle per datum.

    Raises:
        IncompatibleObjectiveError: if the pair has no bound per datum.
    """
    if not batch or not isinstance(batch[0], Tensor) or not batch[0].dim():
        raise IncompatibleObjectiveError(
            f"{name} takes a batch, x of shape (rows, ...), as the first argument of the "
            f"programs, not {_shape_of(batch[0]) if batch else 'nothing'}; use Trace_ELBO"
        )
    traces = _traces(model, guide, batch)
    plate = find_data_plate(lambda part: paired_traces(model, guide, part), batch)
    if plate is None or not plate.vectorized or plate.subsamples:
        what = (
            f"no plate of {len(batch[0])} elements encloses the data"
            if plate is None
            else f"plate {plate.name!r} subsamples the batch itself"
            if plate.subsamples
            else f"plate {plate.name!r} is a loop"
        )
        raise IncompatibleObjectiveError(
            f"{name} is a bound for each datum, and {what}: put the sites of a datum into "
            'pyro.plate("data", len(x)), or use Trace_ELBO'
        )
    missing = [site for site in latent_sites(traces[0]) if site not in traces[1].nodes]
    if missing:
        raise IncompatibleObjectiveError(
            f"{name} needs a draw of each latent site, and the guide has none of {missing}: "
            "add them to the guide, or use TraceEnum_ELBO, which sums them out"
        )
    particles = None
    if several:
        step = max(1, len(batch[0]) // 4)
        head = tuple(_rows(part, slice(None, None, step), len(batch[0])) for part in batch)
        particles = vectorized_particles(model, guide, plate, head, scaled=True)
    if particles is None:
        particles = Particles(model, guide, plate, scaled=True)
        if several:
            _try_tiles(name, particles, batch)
    if several:
        particles.powers = _powers(name, particles, traces, batch)
    parameters = _parameters(model, guide, traces)
    known = {id(leaf) for leaf in parameters.values()}
    leaves = [leaf for leaf in _leaves(model, guide, batch) if id(leaf) not in known]
    parameters |= {f"parameter {i} of shape {tuple(p.shape)}": p for i, p in enumerate(leaves)}
    sized = _has_own_size(model, guide, plate, batch)
    structure = PairStructure(model, guide, plate, particles, *traces, parameters, sized)
    loose = [site for site in structure.global_sites if site in structure.discrete]
    if loose:
        raise IncompatibleObjectiveError(
            f"{name} needs reparameterized global sites, and {loose} are not: use Trace_ELBO"
        )
    return structure


def _traces(
    model: Program, guide: Program, batch: tuple[Any, ...]
) -> tuple[poutine.Trace, poutine.Trace]:
    """Traces that hold no graphs, if the programs run without gradients."""
    try:
        with torch.no_grad():
            return paired_traces(model, guide, batch)
    except RuntimeError:  # a guide may take gradients itself
        return paired_traces(model, guide, batch)


def _has_own_size(model: Program, guide: Program, plate: DataPlate, batch: tuple[Any, ...]) -> bool:
    """Whether the data plate keeps its size when the batch has a row less."""
    rows = len(batch[0])
    if plate.full_size != rows or rows == 1:
        return plate.full_size != rows
    try:
        fewer = paired_traces(
            model, guide, tuple(_rows(part, slice(rows - 1), rows) for part in batch)
        )
    except (RuntimeError, ValueError, IndexError):
        return False  # it has this size and no other
    frames = [plate.frame(site) for _, site in sample_sites(fewer[0])]
    return any(frame is not None and frame.full_size == rows for frame in frames)


def _try_tiles(name: str, particles: Particles, batch: tuple[Any, ...]) -> None:
    try:
        particles.draw(batch, 2)
    except (RuntimeError, ValueError, IndexError) as error:
        rows = len(batch[0])
        raise IncompatibleObjectiveError(
            f"{name} runs two particles of {rows} data as {2 * rows} rows, and this pair does not "
            f"run on them ({type(error).__name__}: {error}): plates and parameters are to follow "
            "the size of the batch; or use ELBO with one particle"
        ) from error


def _powers(
    name: str,
    particles: Particles,
    traces: tuple[poutine.Trace, poutine.Trace],
    batch: tuple[Any, ...],
) -> tuple[dict[str, int], dict[str, int]]:
    """How the scales of model and guide follow the rows of a tiled batch; see `Particles`."""
    with preserve_generators(), torch.no_grad():
        twice = particles.draw(batch, 2)
    of_tiles = (twice.model, traces[1] if particles.depth else twice.proposal.trace)
    powers: tuple[dict[str, int], dict[str, int]] = ({}, {})
    for role, found, once, tiled in zip(("model", "guide"), powers, traces, of_tiles, strict=True):
        before = dict(sample_sites(once))
        for site, at_tiles in sample_sites(tiled):
            if site not in before:
                continue
            scales = (own_scale(s, particles.plate) for s in (before[site], at_tiles))
            power = _power(*scales)
            if power is None:
                raise IncompatibleObjectiveError(
                    f"{name} runs K particles of a batch as K times as many rows, and the scale of "
                    f"{site!r} in the {role} changes with the rows, but is neither proportional to "
                    "their number nor to its inverse: use an ELBO with one particle"
                )
            if power:
                found[site] = power
    return powers


def _power(once: float | Tensor, twice: float | Tensor) -> int | None:
    """0, 1 or -1 if a scale on two tiles is the same, twice or half the one on the batch."""
    before, after = torch.as_tensor(once).double(), torch.as_tensor(twice).double()
    for dim, (rows, tiles) in enumerate(zip(before.shape, after.shape, strict=False)):
        if tiles == 2 * rows:
            after = after.narrow(dim, 0, rows)
    for power in (0, 1, -1):
        if after.shape == before.shape and torch.allclose(after, before * 2.0**power, rtol=1e-4):
            return power
    return None


def _parameters(
    model: Program, guide: Program, traces: tuple[poutine.Trace, poutine.Trace]
) -> dict[str, Tensor]:
    found: dict[int, tuple[str, Tensor]] = {}
    for trace in traces:
        for name, site in trace.nodes.items():
            if site["type"] == "param":
                leaf = cast(Any, site["value"]).unconstrained()
                found.setdefault(id(leaf), (name.replace("$$$", "."), leaf))
    for name, network in reach({"model": model, "guide": guide}, nn.Module):
        for part, leaf in network.named_parameters():
            found.setdefault(id(leaf), (f"{name}.{part}", leaf))
    return dict(found.values())


def _leaves(model: Program, guide: Program, batch: tuple[Any, ...]) -> list[Tensor]:
    """The leaves of the graph of a few rows; some networks are known to the optimizer alone."""
    head = tuple(_rows(part, slice(4), len(batch[0])) for part in batch)
    try:
        with preserve_generators(), torch.enable_grad():
            traces = paired_traces(model, guide, head)
            terms = [
                part
                for trace in traces
                for _, site in sample_sites(trace)
                for part in (site["value"], site["fn"].log_prob(site["value"]))
            ]
    except (RuntimeError, ValueError, IndexError):
        return []  # it has this size and no other
    waiting: list[Any] = [part.grad_fn for part in terms if isinstance(part, Tensor)]
    seen: set[Any] = {None}
    leaves = []
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            waiting += [parent for parent, _ in node.next_functions]
            if hasattr(node, "variable"):
                leaves.append(node.variable)
    return leaves


def _rows(part: Any, where: slice, rows: int) -> Any:
    return part[where] if isinstance(part, Tensor) and part.dim() and len(part) == rows else part


def _shape_of(value: object) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
