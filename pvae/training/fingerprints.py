"""What the numbers of a run depend on beside its options: programs, data, sites and versions."""

import hashlib
import inspect
import platform
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
import pyro.poutine as poutine
import torch

from pvae.data import Batches
from pvae.pair.distributions import base_distribution
from pvae.pair.traces import sample_sites

__all__ = ["differences", "fingerprints"]


def fingerprints(
    model: Callable[..., object],
    guide: Callable[..., object],
    traces: tuple[poutine.Trace, poutine.Trace],
    source: Batches,
) -> dict[str, object]:
    """What is compared when a run is resumed.

    Args:
        model: p(x, z).
        guide: q(z | x).
        traces: of the model and the guide, on one batch.
        source: of the training data.
    """
    sites = {
        role: {name: _described(site["fn"]) for name, site in sample_sites(trace)}
        for role, trace in zip(("model", "guide"), traces, strict=True)
    }
    versions = {name: version(name) for name in ("pvae-ppl", "pyro-ppl", "torch")}
    return {
        "source": {"model": _source(model), "guide": _source(guide)},
        "data": dict(source.fingerprint),
        "sites": sites,
        "versions": {**versions, "numpy": np.__version__, "python": platform.python_version()},
    }


def differences(old: object, new: object, name: str = "") -> dict[str, list[Any]]:
    """Entries of nested mappings that differ, by their joined names: [old, new].

    Example:
        >>> differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}})
        {'a c': [2, 3]}
    """
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        return {} if old == new else {name: [old, new]}
    found: dict[str, list[Any]] = {}
    for key in dict.fromkeys([*old, *new]):
        found |= differences(old.get(key), new.get(key), f"{name} {key}".strip())
    return found


def _source(program: object) -> str | None:
    """The digest of the text that defines a program; None where it cannot be found."""
    try:
        text = inspect.getsource(program if inspect.isroutine(program) else type(program))
    except (OSError, TypeError):
        return None
    return hashlib.sha256(text.encode()).hexdigest()


def _described(fn: object) -> str:
    shape = tuple(getattr(fn, "event_shape", torch.Size()))
    return f"{type(base_distribution(fn)).__name__} {shape}"
