"""Dreams: data drawn from the model, on which the guide is trained to find what made them."""

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from pvae.objectives.structure import Pair, UnsuitableError
from pvae.pair.log_prob import log_probs
from pvae.pair.particles import total
from pvae.pair.simulation import arguments_observed, simulate
from pvae.pair.traces import latent_sites

__all__ = ["dreamt", "find_observed"]


def find_observed(name: str, pair: Pair, batch: tuple[Any, ...]) -> dict[str, int]:
    """Which argument each observed site observes; see `arguments_observed`.

    Args:
        name: of the objective that dreams.
        pair: model and guide.
        batch: the arguments of the programs.

    Raises:
        UnsuitableError: data that were drawn could not be handed to the guide.
    """
    own = latent_sites(pair.model_trace)
    guide = latent_sites(pair.guide_trace)
    further = [
        site
        for site, value in guide.items()
        if site not in own or isinstance(value["fn"], dist.Delta)
    ]
    if further:
        raise UnsuitableError(
            f"{name} raises log q of what the model draws, and sites {further} of the guide are "
            "not the model's, or no distributions: use RWS(insomnia=1.0), or IWAE"
        )
    try:
        with pyro.validation_enabled(False), torch.no_grad():
            return arguments_observed(pair.model, batch)
    except ValueError as error:
        what = f"{name} trains the guide on data drawn from the model"
        raise UnsuitableError(f"{what}: {error}") from error


def dreamt(pair: Pair, batch: tuple[Any, ...], observed: dict[str, int]) -> Tensor:
    """log q(z | x) of one draw of z and x from the model for each row; shape (rows,), in nats.

    Args:
        pair: model and guide.
        batch: the arguments of the programs, each of shape (rows, ...).
        observed: from `find_observed`.
    """
    with torch.no_grad():
        trace, dream = simulate(pair.model, batch, observed)
    guide = poutine.trace(poutine.replay(pair.guide, trace=trace)).get_trace(*dream)
    return total(log_probs(guide, pair.plate, scaled=pair.particles.scaled).local)
