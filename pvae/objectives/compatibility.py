"""Requirements of estimators on a pair, with the reason and an alternative in each message."""

import torch

from pvae.objectives.constant import log_q_of_values
from pvae.objectives.objective import Objective
from pvae.objectives.structure import IncompatibleObjectiveError, PairStructure
from pvae.pair.distributions import base_distribution, distribution_name
from pvae.pair.log_prob import Terms
from pvae.pair.particles import total
from pvae.pair.preserve import preserve_generators

__all__ = [
    "require_local_sites",
    "require_reparameterized",
    "require_repeatable_guide",
    "require_scores_of_parameters",
    "require_separate_parameters",
]


def require_reparameterized(objective: Objective, structure: PairStructure, nearest: str) -> None:
    """Require that all sites of the guide are reparameterized."""
    if structure.discrete:
        sites = structure.guide_trace.nodes
        kinds = sorted({distribution_name(sites[name]["fn"]) for name in structure.discrete})
        raise IncompatibleObjectiveError(
            f"{type(objective).__name__} needs reparameterized draws, and sites "
            f"{structure.discrete} of the guide are not reparameterized "
            f"({', '.join(kinds)}): use {nearest}"
        )


def require_local_sites(objective: Objective, structure: PairStructure, nearest: str) -> None:
    """Require that the guide has no global sites."""
    if structure.global_sites:
        raise IncompatibleObjectiveError(
            f"{type(objective).__name__} weights the particles of each datum separately, and sites "
            f"{structure.global_sites} are global: use {nearest}"
        )


def require_separate_parameters(
    objective: Objective, structure: PairStructure, batch: tuple[object, ...], nearest: str
) -> None:
    """Require that model and guide, which have separate losses, share no parameters."""
    name = type(objective).__name__
    with preserve_generators(), torch.enable_grad():
        try:
            draw = structure.particles.draw(batch, 1, detached=True)
        except LookupError as error:  # a transform without an inverse, which caches its draws
            raise IncompatibleObjectiveError(
                f"{name} needs log q at any value, and a transform of the guide has no inverse "
                f"({error}): use {nearest}"
            ) from error
        used = [_depends(structure, terms) for terms in (draw.log_p, draw.log_q)]
    both = sorted(used[0] & used[1])
    if both:
        shown = ", ".join(map(repr, both[:3]))
        more = f" and {len(both) - 3} more" if len(both) > 3 else ""
        raise IncompatibleObjectiveError(
            f"{name} trains model and guide on separate losses, and they share parameters "
            f"({shown}{more}): use {nearest}"
        )


def require_scores_of_parameters(
    objective: Objective, structure: PairStructure, batch: tuple[object, ...], nearest: str
) -> None:
    """Require that no point mass of the guide has parameters, on which log q does not depend."""
    with preserve_generators(), torch.enable_grad():
        drawn = structure.particles.propose(batch, 1, detached=True)
    points = [
        name
        for name in drawn.point_masses
        if base_distribution(drawn.sites[name]["fn"]).v.requires_grad
    ]
    if points:
        raise IncompatibleObjectiveError(
            f"{type(objective).__name__} trains the guide by log q at its draws, which does not "
            f"depend on the place of a point mass, so that sites {points} (Delta) would stay where "
            f"they are: use {nearest}"
        )


def _depends(structure: PairStructure, terms: Terms) -> set[str]:
    """Names of the parameters that log-probabilities depend on."""
    value = total(terms.local) + total(terms.global_)
    leaves = {name: leaf for name, leaf in structure.parameters.items() if leaf.requires_grad}
    if not value.requires_grad or not leaves:
        return set()
    found = torch.autograd.grad(value.sum(), list(leaves.values()), allow_unused=True)
    return {name for name, gradient in zip(leaves, found, strict=True) if gradient is not None}


def require_repeatable_guide(
    objective: Objective, structure: PairStructure, batch: tuple[object, ...]
) -> None:
    """Require that log q at given values is the same in two runs, unlike with dropout."""
    name = type(objective).__name__
    with preserve_generators(), torch.no_grad():
        proposal = structure.particles.propose(batch, 1)
        try:
            first, again = (log_q_of_values(structure, batch, proposal).local for _ in range(2))
        except LookupError as error:  # a transform without an inverse, which caches its draws
            raise IncompatibleObjectiveError(
                f"{name} needs log q at any value, and a transform of the guide has no inverse "
                f"({error}): use ELBO or IWAE"
            ) from error
    moved = [site for site in first if not torch.allclose(first[site], again[site], 1e-3, 1e-3)]
    if moved:
        raise IncompatibleObjectiveError(
            f"{name} runs the guide twice, and log q at {moved} differs between the runs: "
            "the guide draws random numbers outside its sites (dropout?); use ELBO or IWAE"
        )
