"""Latent sites that only the model has: sums over all of their values."""

from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, cast

from pyro import poutine
from pyro.ops.contract import contract_to_tensor
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from pvae.pair.log_prob import Terms, log_probs, own_scale, scale_within
from pvae.pair.plate import DataPlate
from pvae.pair.traces import latent_sites, sample_sites

__all__ = [
    "SummedOut",
    "enumerated",
    "groups_summed_out",
    "log_probs_summed_out",
    "marked_sites",
    "model_only_sites",
    "plate_depth",
]


@dataclass(frozen=True)
class SummedOut:
    """Sites of the model alone whose values are summed out.

    Attributes:
        names: of the sites, which have enumerable support.
        depth: number of dimensions of the model's plates; values are enumerated to their left.
    """

    names: tuple[str, ...]
    depth: int


def model_only_sites(model_trace: poutine.Trace, guide_trace: poutine.Trace) -> list[str]:
    """The model's latent sites that the guide does not have."""
    return [name for name in latent_sites(model_trace) if name not in guide_trace.nodes]


def marked_sites(model_trace: poutine.Trace, guide_trace: poutine.Trace) -> list[str]:
    """Those of them that are marked for enumeration, as by `pyro.infer.config_enumerate`."""
    sites = latent_sites(model_trace)
    names = model_only_sites(model_trace, guide_trace)
    return [name for name in names if (sites[name]["infer"] or {}).get("enumerate") == "parallel"]


def plate_depth(*traces: poutine.Trace) -> int:
    """The number of dimensions that the plates of programs take, counted from the right."""
    frames = [f for trace in traces for _, s in sample_sites(trace) for f in s["cond_indep_stack"]]
    return max((-frame.dim for frame in frames if frame.dim is not None), default=0)


def enumerated(program: Callable[..., object], sites: SummedOut) -> Callable[..., object]:
    """A program with all values of some sites, each site along a dimension of its own.

    Args:
        program: a model; around it, its other latent sites may be given values.
        sites: the sites.
    """

    def marked(*args: object) -> object:
        with _Mark(sites.names):
            return program(*args)

    dim = -1 - sites.depth
    return cast(Callable[..., object], poutine.enum(cast(Any, marked), first_available_dim=dim))


class _Mark(Messenger):
    """Marks sites for enumeration, and no others."""

    def __init__(self, names: Collection[str]) -> None:
        super().__init__()
        self.names = names

    def _pyro_sample(self, msg: Message[Any, Any]) -> None:
        infer = {key: value for key, value in (msg["infer"] or {}).items() if key != "enumerate"}
        if msg["name"] in self.names:
            infer["enumerate"] = "parallel"
        msg["infer"] = cast(Any, infer)


def log_probs_summed_out(
    trace: poutine.Trace,
    plate: DataPlate,
    names: Collection[str],
    *,
    scaled: bool = False,
    sites: Collection[str] | None = None,
) -> Terms:
    """The log-probabilities of a trace, with some sites summed out.

    log sum_y p(y) prod_s p(s | y, ...), over the sites s that depend on y, is one term: that of s
    if there is one such site, and otherwise of all of them, under their names joined by commas.

    Args:
        trace: of an `enumerated` model.
        plate: the data plate.
        names: the enumerated sites.
        scaled: as in `log_probs`.
        sites: leave out all other sites (default: none).

    Returns:
        Terms by site, in nats, local ones of shape (rows,).
    """
    trace, involved = _packed(trace, plate, names, scaled=scaled, sites=sites)
    kept = dict(sample_sites(trace))
    rest = trace.copy()
    for name in involved:
        rest.remove_node(name)
    found = log_probs(rest, plate, scaled=scaled)
    for group, dims in _components(involved):
        factors: OrderedDict[frozenset[str], list[Tensor]] = OrderedDict()
        rows = set()
        for name in group:
            frames = [f for f in kept[name]["cond_indep_stack"] if f.vectorized]
            rows |= {trace.plate_to_symbol[f.name] for f in frames if f.name in plate.names}
            within = frozenset(trace.plate_to_symbol[f.name] for f in frames)
            factors.setdefault(within, []).append(kept[name]["packed"]["factor"])
        others = [name for name in group if name not in names]
        term: Tensor = contract_to_tensor(factors, dims, target_ordinal=frozenset(rows))
        found.local[", ".join(others or group)] = term.reshape(-1)
    return found


def groups_summed_out(
    trace: poutine.Trace,
    plate: DataPlate,
    names: Collection[str],
    sites: Collection[str] | None = None,
) -> list[list[str]]:
    """The sites that depend on enumerated ones, in groups that share such a site.

    Args:
        trace: of an `enumerated` model.
        plate: the data plate.
        names: the enumerated sites.
        sites: leave out all other sites (default: none).
    """
    _, involved = _packed(trace, plate, names, scaled=False, sites=sites)
    return [[n for n in group if n not in names] for group, _ in _components(involved)]


def _packed(
    trace: poutine.Trace,
    plate: DataPlate,
    names: Collection[str],
    *,
    scaled: bool,
    sites: Collection[str] | None,
) -> tuple[poutine.Trace, dict[str, set[str]]]:
    """A trace with packed log-probabilities, and the enumerated dimensions of its sites."""
    trace = prune_subsample_sites(trace)
    for name in [n for n, _ in sample_sites(trace) if sites is not None and n not in sites]:
        trace.remove_node(name)
    kept = dict(sample_sites(trace))
    for site in kept.values():
        site["scale"] = own_scale(site, plate) if scaled else scale_within(site, plate)
    trace.compute_log_prob()
    trace.pack_tensors()
    plates = set(trace.plate_to_symbol.values())
    involved = {}
    for name, site in kept.items():
        # As in Pyro, masks apply to the sites within the sum alone.
        packed = site["packed"]["unscaled_log_prob" if name in names else "log_prob"]
        if values := set(packed._pyro_dims) - plates:
            involved[name] = values
            site["packed"]["factor"] = packed
    return trace, involved


def _components(involved: dict[str, set[str]]) -> list[tuple[list[str], set[str]]]:
    """Groups of sites that share enumerated dimensions, in order, with these dimensions."""
    groups: list[tuple[list[str], set[str]]] = []
    for name, dims in involved.items():
        apart = [group for group in groups if group[1].isdisjoint(dims)]
        together = [group for group in groups if not group[1].isdisjoint(dims)]
        members = [member for group in together for member in group[0]]
        groups = [*apart, ([*members, name], dims.union(*(group[1] for group in together)))]
    return groups
