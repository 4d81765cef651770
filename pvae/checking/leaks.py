"""Does the bound of a datum depend on other rows of its batch?"""

from collections.abc import Iterator

from torch import nn

from pvae.checking.inspection import Inspection
from pvae.checking.report import Finding

__all__ = ["leaks_across_rows"]

_BATCH_NORM = nn.modules.batchnorm._BatchNorm


def leaks_across_rows(inspection: Inspection) -> Iterator[Finding]:
    """Terms that depend on other rows of the batch, or on their latent values."""
    moved = inspection.find_dependent_sites()
    if not moved:
        return
    networks = inspection.pair.networks.items()
    layers = {
        f"{name}.{inner}".rstrip("."): part
        for name, network in networks
        for inner, part in network.named_modules()
        if isinstance(part, _BATCH_NORM) and part.training
    }
    for layer in layers.values():
        layer.eval()
    by_norm = layers and not inspection.find_dependent_sites()
    for layer in layers.values():
        layer.train()
    location = inspection.location(*moved[0])
    sites = ", ".join(f"{name!r} in the {role}" for role, name in moved)
    if by_norm:
        names = ", ".join(f"{n} ({type(part).__name__})" for n, part in layers.items())
        yield Finding.at(
            location,
            "warning",
            f"the terms of a datum at {sites} depend on other rows of its batch, through {names} "
            "in "
            "train mode, so the training loss is not a bound on log p(x); evaluation, which uses "
            "running statistics, is. LayerNorm and GroupNorm do not mix rows",
        )
        return
    yield Finding.at(
        location,
        "error",
        f"the terms of a datum at {sites} depend on other rows of its batch, so the objective is "
        "not a bound on log p(x): look for a mean, sum, softmax or attention over dimension 0 in "
        "the networks, or a reshape that mixes rows",
    )
