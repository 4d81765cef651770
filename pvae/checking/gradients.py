"""Does every parameter get a gradient? None is no gradient; zero is one."""

from collections.abc import Iterator

import torch

from pvae.checking.finding import Finding
from pvae.checking.inspection import Subject
from pvae.engine.step import undone
from pvae.pair.locations import Place

__all__ = ["parameters_without_gradient", "unregistered_networks"]


def parameters_without_gradient(subject: Subject) -> Iterator[Finding]:
    """Parameters that the objective does not depend on."""
    belongings = subject.belongings
    with undone(list(belongings.networks.values())), torch.enable_grad():
        for parameter in belongings.parameters().values():
            parameter.grad = None
        subject.objective.loss_and_grads(belongings.model, belongings.guide, *subject.batch)  # type: ignore[attr-defined]
        without = {id(p) for p in belongings.parameters().values() if p.grad is None}
    for role, params in subject.params.items():
        names = [name for name, p in params.items() if id(p) in without and p.requires_grad]
        if role == "model":
            names = [name for name in names if name not in subject.params["guide"]]
        if not names:
            continue
        whole = len(names) == len(params)
        # Another batch may take another branch, and a module may hold networks for other programs.
        meant = role == "model" or not whole
        whose = f"the {role}{' (all that it has)' if whole else ''}"
        yield Finding.at(
            _place(subject, role, names[0]),
            "warning" if meant else "error",
            f"no gradient for {_listed(names)} of {whose}: the objective does not depend on it; "
            "look for a layer that is never called, .detach(), torch.no_grad() or a draw that is "
            "not used",
        )


def unregistered_networks(subject: Subject) -> Iterator[Finding]:
    """Networks that the programs use without registering them."""
    for name in subject.belongings.unused:
        yield Finding(
            "warning",
            f"network {name!r} is used but not passed to pyro.module: it is not trained",
        )


def _place(subject: Subject, role: str, name: str) -> Place | None:
    made = subject.places[role].params.get(name)
    return made[0] if made else None


def _listed(names: list[str]) -> str:
    shown = ", ".join(repr(name.replace("$$$", ".")) for name in names[:4])
    rest = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return f"parameter{'s' if len(names) > 1 else ''} {shown}{rest}"
