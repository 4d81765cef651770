"""Does the guide look at the data where it proposes something for each of them?"""

from collections.abc import Iterator

import torch
from pyro import poutine
from pyro.distributions import Distribution
from torch import Tensor

from pvae.checking.failures import OF_PROGRAMS
from pvae.checking.finding import Finding
from pvae.checking.inspection import Subject
from pvae.pair.preserve import preserved
from pvae.pair.traces import latent_sites

__all__ = ["global_sites_in_the_data_plate"]


def global_sites_in_the_data_plate(subject: Subject) -> Iterator[Finding]:
    """Sites of the data plate for which the guide proposes one distribution for all data."""
    if subject.plate is None or not subject.plate.vectorized:
        return
    if not all(part.is_floating_point() for part in subject.batch):
        return  # rows of parameters may be looked up by number
    with preserved(), torch.enable_grad():
        follows = tuple(part.detach().clone().requires_grad_() for part in subject.batch)
        try:
            trace = poutine.trace(subject.belongings.guide).get_trace(*follows)
        except OF_PROGRAMS:
            return  # it is not made for data that require gradients
    for name, site in latent_sites(trace).items():
        if not site["fn"].has_rsample:
            return  # what comes after it may depend on the data through it
        if subject.plate.frame(site) is None or site["infer"].get("is_auxiliary"):
            continue
        tensors = _tensors(site["fn"])
        # The draw follows what a flow does to a distribution that is the same for all.
        follow = [site["value"], *tensors]
        differs = any(t.requires_grad and _depends(t, follows) for t in follow)
        if not differs and tensors and not _rows_differ(tensors, subject.rows):
            yield Finding.at(
                subject.place("guide", name),
                "warning",
                f"inside the data plate the guide proposes the same distribution of {name!r} for "
                "every datum: let it depend on x if it is a datum's own; a site that all data "
                "share (a weight) is sampled outside the plate, in model and guide, or it counts "
                "once per datum",
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
    """The parameters of a distribution, through what wraps it."""
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    found = [getattr(fn, key, None) for key in getattr(fn, "arg_constraints", {})]
    return [value for value in found if isinstance(value, Tensor)]
