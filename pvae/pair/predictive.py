"""Draws, latent codes and reconstructions from a pair, by effect handlers on its programs."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import torch
from pyro import poutine
from pyro.poutine import runtime
from pyro.poutine.condition_messenger import ConditionMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from pyro.poutine.uncondition_messenger import UnconditionMessenger
from pyro.poutine.util import site_is_factor, site_is_subsample
from torch import Tensor

from pvae.data import rows
from pvae.pair.pair import rows_on_device
from pvae.pair.preserve import evaluation_mode
from pvae.pair.traces import observed_sites, sample_sites

__all__ = ["at_means", "decode", "infer", "reconstruct", "sample", "unobserved"]


def sample(model: Callable[..., object], like: object) -> dict[str, Tensor]:
    """Draw every site of a model once per row: latent codes from the prior, then data.

    Args:
        model: p(x, z), called with one batch; its observed sites are drawn, too.
        like: data with the number of rows, shape and type of the draws: a tensor of shape
            (rows, ...), a tuple of tensors, or a split of a data set. Its values matter only for
            arguments that the model conditions on.

    Returns:
        By site, a tensor of shape (rows, ...); a global site has one draw for all rows.

    Example:
        >>> import pvae, torch
        >>> draws = pvae.sample(pvae.models.VAE(x_shape=(8, 8), z_dim=2), torch.zeros(5, 8, 8))
        >>> draws["x"].shape, draws["z"].shape
        (torch.Size([5, 8, 8]), torch.Size([5, 2]))
    """
    # One call for all rows, so that global sites are drawn once.
    (draws,) = (
        _values(unobserved(model), batch)
        for batch in _batches(like, model, batch_size=len(rows(like)))
    )
    return draws


def infer(guide: Callable[..., object], x: object) -> dict[str, Tensor]:
    """The latent codes of x: the mean of q at each site, given the means at the sites before it.

    A site without a mean in its support (a discrete site, a flow) is drawn instead.

    Args:
        guide: q(z | x), called with one batch.
        x: a tensor of shape (rows, ...), a tuple of tensors, or a split of a data set.

    Returns:
        By site, a tensor of shape (rows, ...); a global site has one value for all rows.

    Example:
        >>> import pvae, pyro, torch
        >>> import pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):  # the posterior itself
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))
        >>> pvae.infer(guide, torch.tensor([2.0, -4.0]))["z"]
        tensor([ 1., -2.])
    """
    parts = [(len(batch[0]), _values(at_means(guide), batch)) for batch in _batches(x, guide)]
    return {
        name: torch.cat([part[name] for _, part in parts])
        if all(part[name].shape[:1] == (size,) for size, part in parts)
        else first
        for name, first in parts[0][1].items()
    }


def reconstruct(
    model: Callable[..., object], guide: Callable[..., object], x: object, *, site: str = "x"
) -> Tensor:
    """The mean of p(x | z) at the latent codes of x; a draw if the distribution has no mean.

    Args:
        model: p(x, z), called with one batch.
        guide: q(z | x), called with the same arguments.
        x: a tensor of shape (rows, ...), a tuple of tensors, or a split of a data set.
        site: the observed site to reconstruct; ignored if there is only one.

    Returns:
        A tensor of shape (rows, ...).

    Raises:
        ValueError: if the model observes several sites, and none has the given name.

    Example:
        >>> import pvae, pyro, torch
        >>> import pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):  # the posterior itself
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))
        >>> pvae.reconstruct(model, guide, torch.tensor([2.0, -4.0]))
        tensor([ 1., -2.])
    """
    parts = [
        _expected(model, infer(guide, batch), batch, site) for batch in _batches(x, model, guide)
    ]
    return torch.cat(parts)


def decode(
    model: Callable[..., object], codes: Mapping[str, Tensor], like: object, *, site: str = "x"
) -> Tensor:
    """The mean of p(x | z) at given latent codes; a draw if the distribution has no mean.

    Args:
        model: p(x, z), called with one batch.
        codes: by latent site, a tensor of shape (rows, ...); other sites are drawn.
        like: data with the number of rows and the shape of x; its values matter only for arguments
            that the model conditions on.
        site: the observed site to decode; ignored if there is only one.

    Returns:
        A tensor of shape (rows, ...).

    Raises:
        ValueError: if the model observes several sites, and none has the given name.

    Example:
        >>> import pvae, pyro, torch
        >>> import pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):  # the posterior itself
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))
        >>> decode(model, {"z": torch.tensor([0.5, 3.0])}, torch.zeros(2))
        tensor([0.5000, 3.0000])
    """
    (batch,) = _batches(like, model, batch_size=len(rows(like)))
    with torch.no_grad(), evaluation_mode(model):
        return _expected(model, codes, batch, site)


def _expected(
    model: Callable[..., object], codes: Mapping[str, Tensor], batch: tuple[Tensor, ...], site: str
) -> Tensor:
    """The mean of an observed site at given values of latent sites."""
    observed = list(observed_sites(poutine.trace(model).get_trace(*batch)))
    if len(observed) == 1:
        (site,) = observed
    if site not in observed:
        raise ValueError(f"the model observes {observed}, not {site!r}: name one with site=")
    moved = {name: value.to(batch[0].device) for name, value in codes.items()}
    at_codes = poutine.condition(unobserved(model), moved)
    trace = poutine.trace(at_means(at_codes, {site})).get_trace(*batch)
    value: Tensor = dict(sample_sites(trace))[site]["value"]
    return value


class _Free(UnconditionMessenger):
    """Draws observed sites, except `pyro.deterministic` ones and those of `poutine.condition`."""

    def _pyro_sample(self, msg: Message[Any, Any]) -> None:
        given = [h.data for h in runtime._PYRO_STACK if isinstance(h, ConditionMessenger)]
        fixed = any(str(msg["name"]) in data for data in given)
        if not fixed and not (msg["infer"] or {}).get("_deterministic"):
            super()._pyro_sample(msg)


def unobserved(model: Callable[..., object]) -> Callable[..., object]:
    """A program that draws its observed sites, too.

    Args:
        model: p(x, z), called with one batch.
    """

    def run(*args: object) -> object:
        with _Free():
            return model(*args)

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
            mean = fn.mean
        except NotImplementedError:
            return
        if torch.isfinite(mean).all():
            msg["value"], msg["done"] = mean, True


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


def _batches(
    data: object, *programs: Callable[..., object], batch_size: int = 1024
) -> Iterator[tuple[Tensor, ...]]:
    source = rows_on_device(data, *programs)
    with torch.no_grad(), evaluation_mode(*programs):
        yield from source.batches(batch_size)


def _values(program: Callable[..., object], batch: tuple[Tensor, ...]) -> dict[str, Tensor]:
    trace = poutine.trace(program).get_trace(*batch)
    return {
        name: site["value"]
        for name, site in sample_sites(trace)
        if not site_is_factor(cast(Any, site))
    }
