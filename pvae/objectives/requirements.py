"""What estimators ask of a pair, refused with the reason and the nearest that would do."""

from typing import Any, cast

import torch
from pyro import poutine
from torch import Tensor

from pvae.objectives.objective import Objective
from pvae.objectives.pair import Pair, UnsuitableError
from pvae.objectives.particles import Proposal
from pvae.randomness import preserved

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


def refuse_shared_parameters(objective: Objective, pair: Pair, nearest: str) -> None:
    """Refuse a guide that shares parameters with the model, where each has a phase of its own."""
    of_model, of_guide = _parameters(pair.model_trace), _parameters(pair.guide_trace)
    both = sorted(name for key, name in of_guide.items() if key in of_model)
    if both:
        shown = ", ".join(repr(name.replace("$$$", ".")) for name in both[:3])
        more = f" and {len(both) - 3} more" if len(both) > 3 else ""
        raise UnsuitableError(
            f"{type(objective).__name__} trains model and guide on losses of their own, and they "
            f"share parameters ({shown}{more}): use {nearest}"
        )


def refuse_noisy_guide(objective: Objective, pair: Pair, batch: tuple[object, ...]) -> None:
    """Refuse a guide whose log q at given values is not the same twice, as with dropout."""
    with preserved(), torch.no_grad():
        proposal = pair.particles.propose(batch, 1)
        first, again = (_log_q(pair, batch, proposal) for _ in range(2))
    moved = [name for name in first if not torch.allclose(first[name], again[name], 1e-3, 1e-3)]
    if moved:
        raise UnsuitableError(
            f"{type(objective).__name__} runs the guide twice, and log q at {moved} is not the "
            "same then: it draws random numbers besides its sites (dropout?); use ELBO or IWAE"
        )


def _log_q(pair: Pair, batch: tuple[object, ...], proposal: Proposal) -> dict[str, Tensor]:
    return pair.particles.log_q(pair.particles.propose(batch, 1, at=proposal)).local


def _parameters(trace: poutine.Trace) -> dict[int, str]:
    return {
        id(cast(Any, site["value"]).unconstrained()): name
        for name, site in trace.nodes.items()
        if site["type"] == "param"
    }


def _kind(fn: object) -> str:
    inner = getattr(fn, "base_dist", fn)
    return _kind(inner) if inner is not fn else type(fn).__name__
