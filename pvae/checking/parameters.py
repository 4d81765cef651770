"""Is every parameter registered once, trained, and frozen only on purpose?"""

from collections.abc import Iterator

import torch

from pvae.checking.inspection import Inspection
from pvae.checking.report import Finding
from pvae.pair.locations import Location, line_naming
from pvae.pair.preserve import preserve_state

__all__ = [
    "names_used_twice",
    "parameters_without_gradient",
    "thawed_parameters",
    "unregistered_networks",
]


def parameters_without_gradient(inspection: Inspection) -> Iterator[Finding]:
    """Parameters that get no gradient; None is no gradient, zero is one."""
    pair = inspection.pair
    with preserve_state(list(pair.networks.values())), torch.enable_grad():
        for parameter in pair.parameters().values():
            parameter.grad = None
        inspection.objective.loss_and_grads(pair.model, pair.guide, *inspection.batch)  # type: ignore[attr-defined]
        without = {id(p) for p in pair.parameters().values() if p.grad is None}
    untrained = not getattr(inspection.objective, "trains_guide", True)
    for role, params in inspection.params.items():
        if role == "guide" and untrained:
            continue
        names = [name for name, p in params.items() if id(p) in without and p.requires_grad]
        if role == "model":
            names = [name for name in names if name not in inspection.params["guide"]]
        if not names:
            continue
        whole = len(names) == len(params)
        # Another batch may take another branch, and a module may have networks for other programs.
        meant = role == "model" or not whole
        whose = f"the {role}{' (all that it has)' if whole else ''}"
        yield Finding.at(
            _location(inspection, role, names[0]),
            "warning" if meant else "error",
            f"no gradient for {_listed(names)} of {whose}: the objective does not depend on it; "
            "look for a layer that is never called, .detach(), torch.no_grad() or a draw that is "
            "not used",
        )


def unregistered_networks(inspection: Inspection) -> Iterator[Finding]:
    """Networks that the programs use without registering them."""
    programs = {"model": inspection.pair.model.fn, "guide": inspection.pair.guide.fn}
    for name in inspection.pair.unused:
        yield Finding.at(
            line_naming(programs, name.rpartition(".")[2]),
            "warning",
            f"network {name!r} is used but not passed to pyro.module: it is not trained",
        )


def _location(inspection: Inspection, role: str, name: str) -> Location | None:
    made = inspection.locations[role].params.get(name)
    return made[0] if made else None


def _listed(names: list[str]) -> str:
    shown = ", ".join(repr(name.replace("$$$", ".")) for name in names[:4])
    rest = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return f"parameter{'s' if len(names) > 1 else ''} {shown}{rest}"


def thawed_parameters(inspection: Inspection) -> Iterator[Finding]:
    """Parameters that arrived with requires_grad=False and that Pyro made trainable."""
    names = [name for name, parameter in inspection.pair.frozen if parameter.requires_grad]
    if not names:
        return
    location = None
    for locations in inspection.locations.values():
        for made, found in locations.params.items():
            if found and any(name.endswith(made.replace("$$$", ".")) for name in names):
                location = location or found[0]
    shown = ", ".join(map(repr, names[:4])) + (", ..." if len(names) > 4 else "")
    yield Finding.at(
        location,
        "error",
        f"parameters {shown} are frozen (requires_grad=False), but Pyro makes every parameter that "
        "it "
        "registers trainable, including those of a PyroModule: do not register a frozen network "
        "(keep it in a list or a closure), or use its output under torch.no_grad()",
    )


def names_used_twice(inspection: Inspection) -> Iterator[Finding]:
    """Parameters or networks with a common name, of which Pyro uses the first."""
    made: dict[str, list[Location]] = {}
    for locations in inspection.locations.values():
        for name, found in locations.params.items():
            made.setdefault(name, []).extend(p for p in found if p not in made[name])
    for name, statements in made.items():
        if "$$$" not in name and len(statements) > 1:
            yield Finding.at(
                statements[-1],
                "warning",
                f"pyro.param({name!r}) has an initial value in {len(statements)} places: Pyro "
                "makes one parameter of that name, with the first value; give each its own name",
            )
    for name, first, second in inspection.pair.duplicate_names:
        registered = [s for n, s in made.items() if n.startswith(f"{name}$$$") and s]
        yield Finding.at(
            registered[0][-1] if registered else None,
            "warning",
            f"pyro.module({name!r}) is given two networks, a {type(first).__name__} and a "
            f"{type(second).__name__}: Pyro registers the first and does not train parameters of "
            "the second with the same names; give each its own name",
        )
