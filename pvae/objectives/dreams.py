"""Dreams: the guide is trained to infer the latents of data simulated from the model."""

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from pvae.objectives.structure import IncompatibleObjectiveError, PairStructure
from pvae.pair.log_prob import log_probs
from pvae.pair.particles import total
from pvae.pair.simulation import arguments_observed, simulate
from pvae.pair.traces import latent_sites

__all__ = ["dream_log_prob", "find_observed"]


def find_observed(name: str, structure: PairStructure, batch: tuple[Any, ...]) -> dict[str, int]:
    """Which argument each observed site observes; see `arguments_observed`.

    Args:
        name: name of the objective.
        structure: model and guide.
        batch: the arguments of the programs.

    Raises:
        IncompatibleObjectiveError: if simulated data cannot be passed to the guide.
    """
    own = latent_sites(structure.model_trace)
    guide = latent_sites(structure.guide_trace)
    further = [
        site
        for site, value in guide.items()
        if site not in own or isinstance(value["fn"], dist.Delta)
    ]
    if further:
        raise IncompatibleObjectiveError(
            f"{name} evaluates log q at draws from the model, and sites {further} of the guide are "
            "not sites of the model, or are point masses: use RWS(insomnia=1.0), or IWAE"
        )
    try:
        with pyro.validation_enabled(False), torch.no_grad():
            return arguments_observed(structure.model, batch)
    except ValueError as error:
        what = f"{name} trains the guide on data drawn from the model"
        raise IncompatibleObjectiveError(f"{what}: {error}") from error


def dream_log_prob(
    structure: PairStructure, batch: tuple[Any, ...], observed: dict[str, int]
) -> Tensor:
    """log q(z | x) at one draw of (z, x) from the model per row; shape (rows,), in nats.

    Args:
        structure: model and guide.
        batch: the arguments of the programs, each of shape (rows, ...).
        observed: from `find_observed`.
    """
    with torch.no_grad():
        trace, dream = simulate(structure.model, batch, observed)
    guide = poutine.trace(poutine.replay(structure.guide, trace=trace)).get_trace(*dream)
    return total(log_probs(guide, structure.plate, scaled=structure.particles.scaled).local)
