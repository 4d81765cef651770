"""What estimators ask of a pair, refused with the reason and the nearest that would do."""

import torch

from pvae.objectives.constant import log_q_of_values
from pvae.objectives.objective import Objective
from pvae.objectives.structure import Pair, UnsuitableError
from pvae.pair.log_prob import Terms
from pvae.pair.particles import total
from pvae.pair.preserve import preserved

__all__ = ["refuse_discrete", "refuse_noisy_guide", "refuse_shared", "refuse_shared_parameters"]


def refuse_discrete(objective: Objective, pair: Pair, nearest: str) -> None:
    """Refuse a guide whose draws have no gradient."""
    if pair.discrete:
        sites = pair.guide_trace.nodes
        kinds = sorted({_kind(sites[name]["fn"]) for name in pair.discrete})
        raise UnsuitableError(
            f"{type(objective).__name__} differentiates through the guide's draws, and those of "
            f"{pair.discrete} have no gradient ({', '.join(kinds)}): use {nearest}"
        )


def refuse_shared(objective: Objective, pair: Pair, nearest: str) -> None:
    """Refuse global sites."""
    if pair.shared:
        raise UnsuitableError(
            f"{type(objective).__name__} weighs the particles of each datum by themselves, and "
            f"sites {pair.shared} are shared by all data: use {nearest}"
        )


def refuse_shared_parameters(
    objective: Objective, pair: Pair, batch: tuple[object, ...], nearest: str
) -> None:
    """Refuse a guide that shares parameters with the model, where each has a phase of its own."""
    name = type(objective).__name__
    with preserved(), torch.enable_grad():
        try:
            draw = pair.particles.draw(batch, 1, detached=True)
        except LookupError as error:  # a transform that has no inverse, but remembers its draws
            raise UnsuitableError(
                f"{name} needs log q at any value, and a transform of the guide has no inverse "
                f"({error}): use {nearest}"
            ) from error
        used = [_depends(pair, terms) for terms in (draw.log_p, draw.log_q)]
    both = sorted(used[0] & used[1])
    if both:
        shown = ", ".join(map(repr, both[:3]))
        more = f" and {len(both) - 3} more" if len(both) > 3 else ""
        raise UnsuitableError(
            f"{name} trains model and guide on losses of their own, and they share parameters "
            f"({shown}{more}): use {nearest}"
        )


def _depends(pair: Pair, terms: Terms) -> set[str]:
    """Names of the parameters on which log-probabilities depend."""
    value = total(terms.local) + total(terms.shared)
    leaves = {name: leaf for name, leaf in pair.parameters.items() if leaf.requires_grad}
    if not value.requires_grad or not leaves:
        return set()
    found = torch.autograd.grad(value.sum(), list(leaves.values()), allow_unused=True)
    return {name for name, gradient in zip(leaves, found, strict=True) if gradient is not None}


def refuse_noisy_guide(objective: Objective, pair: Pair, batch: tuple[object, ...]) -> None:
    """Refuse a guide whose log q at given values is not the same twice, as with dropout."""
    name = type(objective).__name__
    with preserved(), torch.no_grad():
        proposal = pair.particles.propose(batch, 1)
        try:
            first, again = (log_q_of_values(pair, batch, proposal).local for _ in range(2))
        except LookupError as error:  # a transform that has no inverse, but remembers its draws
            raise UnsuitableError(
                f"{name} needs log q at any value, and a transform of the guide has no inverse "
                f"({error}): use ELBO or IWAE"
            ) from error
    moved = [site for site in first if not torch.allclose(first[site], again[site], 1e-3, 1e-3)]
    if moved:
        raise UnsuitableError(
            f"{name} runs the guide twice, and log q at {moved} is not the same then: it draws "
            "random numbers besides its sites (dropout?); use ELBO or IWAE"
        )


def _kind(fn: object) -> str:
    inner = getattr(fn, "base_dist", fn)
    return _kind(inner) if inner is not fn else type(fn).__name__
