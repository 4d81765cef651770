"""Does what a program computes depend on parameters and latent values as it should?"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import constraints
from torch import Tensor, nn

from pvae.checking.inspection import Inspection
from pvae.checking.report import Finding
from pvae.pair.distributions import base_distribution, distribution_name
from pvae.pair.log_prob import site_log_prob
from pvae.pair.preserve import seeded
from pvae.pair.traces import Site, guide_trace_of, latent_sites, observed_sites

__all__ = [
    "SAME_ELEMENTS",
    "constraint_missing",
    "data_made_by_the_model",
    "likelihood_ignores_latents",
    "parameters_detached_in_part",
]

_POSITIVE = (type(constraints.positive), type(constraints.nonnegative))
# Operations that hand on their input's elements.
SAME_ELEMENTS = (
    "View", "Expand", "Unsqueeze", "Squeeze", "Alias", "Clone", "Permute", "TBackward", "Transpose",
    "Slice", "Select", "Split", "Reshape", "UnsafeView", "Copy",
)  # fmt: skip


def data_made_by_the_model(inspection: Inspection) -> Iterator[Finding]:
    """Observed values that depend on parameters, such as the output of the decoder."""
    for name, site in observed_sites(inspection.model).items():
        if site["value"].requires_grad:
            yield Finding.at(
                inspection.location("model", name),
                "warning",
                f"site {name!r} observes a value that depends on parameters of the pair, so they "
                "are trained to make the data likely instead of the model: give the data, obs=x, "
                "or .detach() the value",
            )


def likelihood_ignores_latents(inspection: Inspection) -> Iterator[Finding]:
    """Models of which no observed site follows the latent ones."""
    observed, latent = observed_sites(inspection.model), latent_sites(inspection.model)
    proposed = latent_sites(inspection.guide)
    if not observed or not latent or any(name not in proposed for name in latent):
        return
    pair, batch = inspection.pair, inspection.batch
    with seeded(1):
        other = guide_trace_of(pair.guide, *batch)
    found = []
    for values in (inspection.guide, other):
        with seeded(0):
            trace = poutine.trace(poutine.replay(pair.model, trace=values)).get_trace(*batch)
        found.append(
            {name: site_log_prob(site, None) for name, site in observed_sites(trace).items()}
        )
    if found[0].keys() != found[1].keys() or found[0].keys() != observed.keys():
        return
    drawn = latent_sites(other)
    moved = any(
        not torch.equal(proposed[n]["value"], drawn[n]["value"]) for n in latent if n in drawn
    )
    if moved and all(torch.equal(found[0][name], found[1][name]) for name in observed):
        first = next(iter(observed))
        yield Finding.at(
            inspection.location("model", first),
            "warning",
            f"no observed site depends on a latent one ({', '.join(map(repr, latent))}), so the "
            "latent sites are never used: let the decoder read them, and not the data",
        )


def parameters_detached_in_part(inspection: Inspection) -> Iterator[Finding]:
    """Parameters of a distribution that follow a network, but get no gradient."""
    trained = [p for params in inspection.params.values() for p in params.values()]
    trained = [p for p in dict.fromkeys(trained) if p.requires_grad and p.is_floating_point()]
    before = {role: _parameters(inspection.sites(role)) for role, _ in inspection.programs}
    after = {}
    with _moved(trained):
        for role, trace in inspection.programs:
            program = getattr(inspection.pair, role)
            with seeded(0):
                again = poutine.trace(poutine.replay(program, trace=trace))
                after[role] = _parameters(dict(again.get_trace(*inspection.batch).nodes))
    for role, found in before.items():
        for (name, key), value in found.items():
            new = after[role].get((name, key))
            partly = any(other.requires_grad for (n, _), other in found.items() if n == name)
            if value.requires_grad or new is None or new.shape != value.shape or not partly:
                continue
            if not torch.equal(value, new):
                yield Finding.at(
                    inspection.location(role, name),
                    "warning",
                    f"the {key} of the distribution at {name!r} in the {role} follows the "
                    "parameters, but gets no gradient: remove .detach() or torch.no_grad(), if it "
                    "is to be trained",
                )


def constraint_missing(inspection: Inspection) -> Iterator[Finding]:
    """Parameters that are a scale or a rate themselves, without a constraint."""
    names = {id(p): name for params in inspection.params.values() for name, p in params.items()}
    for role, _ in inspection.programs:
        for site, statement in inspection.sites(role).items():
            fn = base_distribution(statement["fn"])
            for key, constraint in getattr(fn, "arg_constraints", {}).items():
                value = vars(fn).get(key)
                if not isinstance(value, Tensor) or not _is_positive(constraint):
                    continue
                leaf = _leaf(value)
                if leaf is None or id(leaf) not in names:
                    continue
                name = names[id(leaf)].replace("$$$", ".")
                yield Finding.at(
                    inspection.location(role, site),
                    "warning",
                    f"the {key} of the {distribution_name(fn)} at {site!r} is the parameter "
                    f"{name!r}, which may become negative in training: give pyro.param a "
                    "constraint=dist.constraints.positive, or take .exp() of it",
                )


@contextmanager
def _moved(parameters: list[Tensor]) -> Iterator[None]:
    """Change each parameter a little within the block."""
    before = [parameter.detach().clone() for parameter in parameters]
    try:
        for parameter in parameters:  # `data` leaves the graphs of the traces alone
            parameter.data.add_(0.01 * (1 + parameter.data.abs()))
        yield
    finally:
        for parameter, value in zip(parameters, before, strict=True):
            parameter.data.copy_(value)


def _is_positive(constraint: object) -> bool:
    bound = getattr(constraint, "lower_bound", None)
    return isinstance(constraint, _POSITIVE) or bound == 0


def _leaf(value: Tensor) -> Tensor | None:
    """The parameter that a tensor is, apart from its shape."""
    if isinstance(value, nn.Parameter) or (value.is_leaf and value.requires_grad):
        return value
    step: Any = value.grad_fn
    while step is not None:
        if hasattr(step, "variable"):
            leaf: Tensor = step.variable
            return leaf
        if not step.name().startswith(SAME_ELEMENTS):
            return None
        step = next((function for function, _ in step.next_functions if function is not None), None)
    return None


def _parameters(sites: dict[str, Site]) -> dict[tuple[str, str], Tensor]:
    """The parameters of the distributions, by site and name."""
    found = {}
    for name, site in sites.items():
        if site["type"] != "sample" or "fn" not in site:
            continue
        fn = base_distribution(site["fn"])
        for key in getattr(fn, "arg_constraints", {}):
            value = vars(fn).get(key)
            if isinstance(value, Tensor):
                found[name, key] = value
    return found
