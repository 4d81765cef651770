"""Does the bound of a datum depend on the other data of its batch?"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from pvae.checking.finding import Finding
from pvae.checking.subject import Subject

__all__ = ["leaks_across_rows"]

_BATCH_NORM = nn.modules.batchnorm._BatchNorm
_ROUNDING = 1e-3  # relative: products of other shapes are summed in another order


def leaks_across_rows(subject: Subject) -> Iterator[Finding]:
    """Terms that change when another datum of the batch does, at the same latent values."""
    other = _perturbed(subject.batch)
    if subject.plate is None or not subject.plate.vectorized or other is None:
        return
    if subject.plate.subsamples:
        return
    before = subject.at_same_values(subject.batch)
    if _moved(before, subject.at_same_values(subject.batch)):
        return  # it draws what cannot be held fixed
    moved = _moved(before, subject.at_same_values(other))
    if not moved:
        return
    networks = subject.belongings.networks.items()
    layers = {
        f"{name}.{inner}".rstrip("."): part
        for name, network in networks
        for inner, part in network.named_modules()
        if isinstance(part, _BATCH_NORM) and part.training
    }
    for layer in layers.values():
        layer.eval()
    by_norm = layers and not _moved(
        subject.at_same_values(subject.batch), subject.at_same_values(other)
    )
    for layer in layers.values():
        layer.train()
    place = subject.place(*moved[0])
    sites = ", ".join(f"{name!r} in the {role}" for role, name in moved)
    if by_norm:
        names = ", ".join(f"{n} ({type(part).__name__})" for n, part in layers.items())
        yield Finding.at(
            place,
            "warning",
            f"the terms of a datum at {sites} depend on the other data of its batch, by {names} in "
            "train mode: the training loss is no bound of log p(x); evaluation is one, since it "
            "uses the running statistics; LayerNorm or GroupNorm do not mix data",
        )
        return
    yield Finding.at(
        place,
        "error",
        f"the terms of a datum at {sites} change when another datum of its batch does: the bound "
        "would not be one of log p(x); look for a mean, sum, softmax or attention over dimension 0 "
        "in the networks, or a reshape that mixes rows",
    )


def _perturbed(batch: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    """The batch with one row replaced by another, which any support allows for."""
    first = batch[0]
    for row in range(1, len(first)):
        if any(not torch.equal(part[0], part[row]) for part in batch):
            return tuple(torch.cat([part[row : row + 1], part[1:]]) for part in batch)
    return None


def _moved(
    before: dict[tuple[str, str], Tensor], after: dict[tuple[str, str], Tensor]
) -> list[tuple[str, str]]:
    """Programs and sites whose terms differ at rows other than the first."""
    return [
        site
        for site, values in before.items()
        if not torch.allclose(
            values[1:], after[site][1:], rtol=_ROUNDING, atol=_ROUNDING, equal_nan=True
        )
    ]
