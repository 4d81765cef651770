"""Programs whose sites are drawn, fixed or replaced by their means."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from pyro.poutine import runtime
from pyro.poutine.condition_messenger import ConditionMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from pyro.poutine.uncondition_messenger import UnconditionMessenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

__all__ = ["at_means", "fixed", "unobserved"]


def unobserved(model: Callable[..., object]) -> Callable[..., object]:
    """A program that draws its observed sites, too, except those of `poutine.condition`.

    Args:
        model: p(x, z), called with one batch.
    """

    def run(*args: object) -> object:
        with _Free():
            return model(*args)

    return run


class _Free(UnconditionMessenger):
    """Draws observed sites, except `pyro.deterministic` ones and those of `poutine.condition`."""

    def _pyro_sample(self, msg: Message[Any, Any]) -> None:
        given = [h.data for h in runtime._PYRO_STACK if isinstance(h, ConditionMessenger)]
        fixed = any(str(msg["name"]) in data for data in given)
        if not fixed and not (msg["infer"] or {}).get("_deterministic"):
            super()._pyro_sample(msg)


def fixed(program: Callable[..., object], values: Mapping[str, object]) -> Callable[..., object]:
    """A program with some sites at given values.

    Args:
        program: a model or a guide.
        values: keyed by site: tensors of the site's shape, or that broadcast to it.
    """

    def run(*args: object) -> object:
        with _Fixed(values):
            return program(*args)

    return run


class _Fixed(ConditionMessenger):
    """`poutine.condition` with values that broadcast to the shape of their site."""

    def __init__(self, values: Mapping[str, object]) -> None:
        super().__init__(cast(Any, dict(values)))

    def _pyro_sample(self, msg: Message[Any, Any]) -> None:
        value = cast(Mapping[str, object], self.data).get(str(msg["name"]))
        if value is None or site_is_subsample(msg):
            return
        fn = cast(Any, msg["fn"])
        like = fn()
        given = torch.as_tensor(value, dtype=like.dtype, device=like.device)
        try:
            given = given.expand(torch.broadcast_shapes(given.shape, like.shape))
        except RuntimeError as error:
            raise ValueError(
                f"site {msg['name']!r} has shape {tuple(like.shape)}, and the value given for it "
                f"has shape {tuple(given.shape)}"
            ) from error
        msg["value"], msg["is_observed"], msg["done"] = given, True, True


def at_means(
    program: Callable[..., object], sites: set[str] | None = None
) -> Callable[..., object]:
    """A program that takes the means of its distributions instead of draws.

    Args:
        program: a model or a guide.
        sites: the sites to take means at (default: all continuous ones). A site without a mean in
            its support is drawn.
    """

    def run(*args: object) -> object:
        with _Means(sites):
            return program(*args)

    return run


class _Means(Messenger):
    """Replaces draws by the means of their distributions, if these exist."""

    def __init__(self, sites: set[str] | None) -> None:
        super().__init__()
        self.sites = sites

    def _pyro_sample(self, msg: Message[Any, Any]) -> None:
        fn = cast(Any, msg["fn"])
        if msg["done"] or msg["is_observed"] or site_is_subsample(msg):
            return
        if self.sites is None:
            # The mean of a discrete variable is not in its support.
            if not fn.has_rsample:
                return
        elif msg["name"] not in self.sites:
            return
        try:
            mean: Tensor = fn.mean
        except NotImplementedError:
            return
        if torch.isfinite(mean).all():
            msg["value"], msg["done"] = mean, True
