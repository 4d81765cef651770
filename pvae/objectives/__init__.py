"""Bounds and their gradient estimators: each a `pyro.infer.ELBO`, named as in its paper."""

import inspect
import re
from collections.abc import Sequence

import pyro.infer

from pvae._validation import nearest
from pvae.objectives.baselines import MovingAverage, NetworkBaseline
from pvae.objectives.concrete import Concrete
from pvae.objectives.default import default_objective
from pvae.objectives.dreg import DReG
from pvae.objectives.elbo import ELBO
from pvae.objectives.iwae import IWAE
from pvae.objectives.monte_carlo_em import MonteCarloEM
from pvae.objectives.objective import Objective, PerDatum
from pvae.objectives.reinforce import REINFORCE
from pvae.objectives.reweighted_wake_sleep import RWS
from pvae.objectives.sticking_the_landing import STL
from pvae.objectives.structure import IncompatibleObjectiveError, PairStructure
from pvae.objectives.vimco import VIMCO
from pvae.objectives.wake_sleep import WakeSleep
from pvae.zoo import parse_options

__all__ = [
    "ELBO",
    "IWAE",
    "REINFORCE",
    "RWS",
    "STL",
    "VIMCO",
    "Concrete",
    "DReG",
    "IncompatibleObjectiveError",
    "MonteCarloEM",
    "MovingAverage",
    "NetworkBaseline",
    "Objective",
    "PairStructure",
    "PerDatum",
    "WakeSleep",
    "default_objective",
    "get",
    "names",
    "require_instance",
]

_OWN: dict[str, type[Objective]] = {
    "elbo": ELBO,
    "iwae": IWAE,
    "stl": STL,
    "dreg": DReG,
    "reinforce": REINFORCE,
    "vimco": VIMCO,
    "wake_sleep": WakeSleep,
    "rws": RWS,
    "concrete": Concrete,
    "monte_carlo_em": MonteCarloEM,
}


def _named() -> dict[str, type[pyro.infer.ELBO]]:
    """These objectives under their short names, and Pyro's under their own."""
    # The Jit variants need TorchScript, which torch has deprecated; MMD needs a kernel object.
    pyros = {
        name: value
        for name, value in vars(pyro.infer).items()
        if inspect.isclass(value)
        and issubclass(value, pyro.infer.ELBO)
        and value is not pyro.infer.ELBO
        if not name.startswith("Jit") and name != "Trace_MMD"
    }
    return {**_OWN, **pyros}


names: tuple[str, ...] = tuple(_named())
"""The names that `get` knows."""


def require_instance(objective: object) -> None:
    """Refuse a class of objectives in the place of an objective.

    Raises:
        TypeError: if it is a class.

    Example:
        >>> require_instance(pyro.infer.Trace_ELBO())
    """
    if isinstance(objective, type):
        name = objective.__name__
        raise TypeError(f"objective is the class {name}: give {name}(), an instance")


def get(name: str, *, x_shape: Sequence[int] | None = None, **options: object) -> pyro.infer.ELBO:
    """Build an objective by name.

    Args:
        name: one of `names`, alone or with options, such as "iwae:num_particles=5".
        x_shape: shape of one datum, for objectives that are built for the data.
        **options: of its constructor, such as `num_particles`.

    Returns:
        The objective.

    Raises:
        ValueError: if a name or option is unknown.

    Example:
        >>> get("iwae", num_particles=5).num_particles
        5
        >>> get("elbo:kl=analytic,sites=['z1','z2']").sites
        ['z1', 'z2']
    """
    name, _, listed = name.partition(":")
    if name not in names:
        raise ValueError(f"unknown objective {name!r}; {nearest(name, names)}")
    # At commas that are not within brackets.
    texts = re.split(r",(?![^\[(]*[\])])", listed) if listed else []
    options = {**parse_options(texts), **options}
    cls = _named()[name]
    known = {*inspect.signature(cls).parameters}
    if x_shape is not None and "x_shape" in known:
        options = {"x_shape": x_shape, **options}
    if not issubclass(cls, Objective):
        known |= {*inspect.signature(pyro.infer.ELBO).parameters}
    try:
        return cls(**options)
    except (TypeError, AssertionError, AttributeError) as error:
        raise ValueError(f"objective {name!r}: {error}; its options are {sorted(known)}") from error
