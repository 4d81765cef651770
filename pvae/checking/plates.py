"""Are the sites in the right plates?"""

from collections.abc import Iterator
from typing import Any, cast

import torch
from pyro import poutine
from pyro.distributions import Distribution
from pyro.infer.autoguide import AutoGuide
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pvae.checking.failures import failed
from pvae.checking.inspection import Inspection
from pvae.checking.report import Finding
from pvae.pair.distributions import base_distribution, distribution_name
from pvae.pair.locations import location_of_error
from pvae.pair.log_prob import log_probs, site_log_prob
from pvae.pair.preserve import preserve_generators, seeded
from pvae.pair.traces import PROGRAM_ERRORS, Site, latent_sites, observed_sites

__all__ = [
    "global_sites_in_the_data_plate",
    "no_data_plate",
    "one_batch_size_only",
    "subsample_replaced",
    "undeclared_dimensions",
]


def no_data_plate(inspection: Inspection) -> Iterator[Finding]:
    """Observed sites outside any plate of size len(batch)."""
    if inspection.plate is not None or inspection.rows == 1:
        return
    name = next(iter(observed_sites(inspection.model)), None)
    yield Finding.at(
        inspection.location("model", name) if name is not None else None,
        "warning",
        "no plate of size len(batch) encloses the observed sites: every site counts once per "
        "batch, and evaluation goes row by row; put the latent and observed sites of a datum into "
        "`with pyro.plate('data', len(x)):`",
    )


def one_batch_size_only(inspection: Inspection) -> Iterator[Finding]:
    """Programs that fail on a batch of one row less."""
    if inspection.rows < 3 or (inspection.plate is not None and inspection.plate.subsamples):
        return
    fewer = tuple(part[:-1] for part in inspection.batch)
    try:
        for trace in inspection.traces(fewer):
            log_probs(trace, None)
    except PROGRAM_ERRORS as error:
        # A guide with one row of parameters per datum is meant for all data at once.
        sized = isinstance(inspection.pair.guide.fn, AutoGuide) or any(
            inspection.rows in param.shape
            for params in inspection.params.values()
            for name, param in params.items()
            if "$$$" not in name
        )
        inspection.sized = sized
        yield Finding.at(
            location_of_error(error.__traceback__),
            "warning" if sized else "error",
            f"the pair runs on {inspection.rows} rows, but not on {inspection.rows - 1}: it has "
            f"sizes that fit this batch only; {failed(error, fewer).message}",
        )


def subsample_replaced(inspection: Inspection) -> Iterator[Finding]:
    """Rows that the model chose, and that a plate of the guide with the same name replaced."""
    pair = inspection.pair
    alone = []
    for seed in (0, 1):
        with seeded(seed):
            trace = poutine.trace(pair.model).get_trace(*inspection.batch)
        rows = {n: site["value"] for n, site in trace.nodes.items() if _is_subsample(site)}
        alone.append(cast("dict[str, Tensor]", rows))
    for name, site in inspection.model.nodes.items():
        if not _is_subsample(site) or any(name not in found for found in alone):
            continue
        first, second, replayed = (
            cast(Tensor, v) for v in (alone[0][name], alone[1][name], site["value"])
        )
        if torch.equal(first, second) and not torch.equal(first, replayed):
            yield Finding(
                "error",
                f"the model chooses the rows of plate {name!r} with subsample=, and the guide's "
                "plate of that name replaces them by its own: give both the same subsample=",
            )


def _is_subsample(site: Any) -> bool:
    return site["type"] == "sample" and site_is_subsample(site)


def undeclared_dimensions(inspection: Inspection) -> Iterator[Finding]:
    """Batch dimensions outside all plates: a missing to_event, or a broadcast."""
    for role, _ in inspection.programs:
        for name, site in inspection.sites(role).items():
            wrong = _undeclared(name, site, inspection.rows)
            if wrong:
                yield Finding.at(
                    inspection.location(role, name), "error", f"in the {role}, {wrong}"
                )


def _undeclared(name: str, site: Site, rows: int) -> str:
    shape: tuple[int, ...] = tuple(site_log_prob({**site, "mask": None}, None).shape)
    plates = {frame.dim: frame for frame in site["cond_indep_stack"] if frame.vectorized}
    left = [dim for dim in range(-len(shape), 0) if shape[dim] > 1 and dim not in plates]
    if not left:
        return ""
    said = f"the log-probabilities at site {name!r} have shape {shape}"
    if not plates:
        events = f" and mark the others with .to_event({len(shape) - 1})" if shape[1:] else ""
        return (
            f"{said}, but the statement is in no plate: put it into `with pyro.plate('data', "
            f"len(x)):`{events}"
        )
    if shape.count(rows) > 1 and rows > 1:
        value = tuple(site["value"].shape)
        return (
            f"{said}: a tensor of shape ({rows},) was broadcast against ({rows}, 1), so that "
            f"every datum is compared with every other (the value has shape {value}): give data "
            "and "
            f"parameters of {distribution_name(site['fn'])} the same shape, and mark a dimension "
            "of "
            "one datum with .to_event(1)"
        )
    sizes = [shape[dim] for dim in left]
    return (
        f"{said}, of which {sizes} are outside all plates: mark the dimensions of one datum with "
        f".to_event({len(left)})"
    )


def global_sites_in_the_data_plate(inspection: Inspection) -> Iterator[Finding]:
    """Sites in the data plate with one distribution for all data in the guide."""
    if inspection.plate is None or not inspection.plate.vectorized:
        return
    if not all(part.is_floating_point() for part in inspection.batch):
        return  # rows of parameters may be looked up by index
    with preserve_generators(), torch.enable_grad():
        follows = tuple(part.detach().clone().requires_grad_() for part in inspection.batch)
        try:
            trace = poutine.trace(inspection.pair.guide).get_trace(*follows)
        except PROGRAM_ERRORS:
            return  # it does not accept data that require gradients
    for name, site in latent_sites(trace).items():
        if not site["fn"].has_rsample:
            return  # later sites may depend on the data through it
        if inspection.plate.frame(site) is None or site["infer"].get("is_auxiliary"):
            continue
        tensors = _tensors(site["fn"])
        # The draw of a flow depends on the data even if its base distribution does not.
        follow = [site["value"], *tensors]
        differs = any(t.requires_grad and _depends(t, follows) for t in follow)
        if not differs and tensors and not _rows_differ(tensors, inspection.rows):
            yield Finding.at(
                inspection.location("guide", name),
                "warning",
                f"inside the data plate the guide proposes the same distribution of {name!r} for "
                "every datum: let it depend on x if it belongs to a datum; sample a global site (a "
                "weight) outside the plate in model and guide, or it counts once per datum",
            )


def _depends(tensor: Tensor, on: tuple[Tensor, ...]) -> bool:
    found = torch.autograd.grad(tensor.sum(), on, allow_unused=True, retain_graph=True)
    return any(gradient is not None for gradient in found)


def _rows_differ(tensors: list[Tensor], rows: int) -> bool:
    return any(
        t.dim() > 0 and t.shape[0] == rows and not torch.equal(t, t[:1].expand_as(t))
        for t in tensors
    )


def _tensors(fn: Distribution) -> list[Tensor]:
    """The parameters of a distribution."""
    fn = base_distribution(fn)
    found = [getattr(fn, key, None) for key in getattr(fn, "arg_constraints", {})]
    return [value for value in found if isinstance(value, Tensor)]
