"""Draws, codes and reconstructions: seven functions, half of whose lines are documentation."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from pyro import poutine
from torch import Tensor, nn

from pvae._validation import at_least
from pvae.data import Rows
from pvae.pair.distributions import is_discrete
from pvae.pair.interventions import at_means, fixed, unobserved
from pvae.pair.pair import rows_on_device
from pvae.pair.preserve import evaluation_mode
from pvae.pair.program import Program
from pvae.pair.site_values import (
    draws_of,
    frame_of,
    in_place,
    is_local,
    joined,
    sites_of_batches,
    stacked,
    traced,
)
from pvae.pair.traces import Site, latent_sites, observed_sites, sample_sites
from pvae.pair.undefined import UndefinedQuantityError

__all__ = ["decode", "infer", "interpolate", "predict", "reconstruct", "sample"]

_Model = Callable[..., object]
_Batch = tuple[Tensor, ...]
_ROWS = 1024  # in one call of a program


def sample(
    model: _Model, like: object, *, given: Mapping[str, object] | None = None, mean: bool = False
) -> dict[str, Tensor]:
    """Draw every site of a model once per row: latent codes from the prior, then data.

    Args:
        model: p(x, z), called with one batch; its observed sites are drawn, too.
        like: data with the number of rows, shape and type of the draws: a tensor of shape
            (rows, ...), a tuple of tensors, or a split of a data set. Its values matter only for
            arguments that the model conditions on.
        given: values of sites, or of arguments that the model conditions on, by name: a number, or
            a tensor that broadcasts to the site's shape.
        mean: take the means of observed sites instead of draws, where they have one.

    Returns:
        By site, a tensor of shape (rows, ...); a global site has one draw for all rows.

    Raises:
        ValueError: if a given name is neither a site nor an argument, or its value does not fit.

    Example:
        >>> import pvae, torch
        >>> vae = pvae.models.VAE(x_shape=(8, 8), z_dim=2)
        >>> draws = pvae.sample(vae, torch.zeros(5, 8, 8))
        >>> draws["x"].shape, draws["z"].shape
        (torch.Size([5, 8, 8]), torch.Size([5, 2]))
        >>> means = pvae.sample(vae, torch.zeros(5, 8, 8), given={"z": [0.5, -1.0]}, mean=True)
        >>> torch.allclose(means["x"][0], means["x"][4])
        True
    """
    source = rows_on_device(like, model)
    with _evaluating(model):
        batch = source.first(len(source))  # one call, so that global sites are drawn once
        values = dict(given or {})
        if values:
            sites = [name for name, _ in sample_sites(traced(unobserved(model), batch))]
            batch = _with_arguments(model, batch, values, sites)
        program = fixed(unobserved(model), values)
        if mean:
            program = at_means(program, set(observed_sites(traced(model, batch))))
        return draws_of(program, [batch])


def infer(guide: _Model, x: object, *, num_samples: int | None = None) -> dict[str, Tensor]:
    """The latent codes of x: the mean of q at each site, or draws from q.

    A mean is that given the means at the sites before it. A site without a mean in its support (a
    discrete site, a flow) is drawn instead.

    Args:
        guide: q(z | x), called with one batch.
        x: a tensor of shape (rows, ...), a tuple of tensors, or a split of a data set.
        num_samples: number of draws, at least 1 (default: means).

    Returns:
        By site, a tensor of shape (rows, ...), or (num_samples, rows, ...) for draws; a global site
        has one value for all rows, shape (...) or (num_samples, ...).

    Example:
        >>> import pvae, pyro, torch
        >>> import pyro.distributions as dist
        >>> def guide(x):  # the posterior itself
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))
        >>> pvae.infer(guide, torch.tensor([2.0, -4.0]))["z"]
        tensor([ 1., -2.])
        >>> pvae.infer(guide, torch.tensor([2.0, -4.0]), num_samples=100)["z"].shape
        torch.Size([100, 2])
    """
    at_least(1, num_samples=num_samples)
    source = rows_on_device(x, guide)
    with _evaluating(guide):
        if num_samples is None:
            return draws_of(at_means(guide), source.batches(_ROWS))
        return stacked(draws_of(guide, source.batches(_ROWS)) for _ in range(num_samples))


def predict(model: _Model, guide: _Model, x: object, *, num_samples: int = 1) -> dict[str, Tensor]:
    """Draw every observed site from its posterior predictive: z from q(z | x), x' from p(x' | z).

    Args:
        model: p(x, z), called with one batch.
        guide: q(z | x), called with the same arguments.
        x: a tensor of shape (rows, ...), a tuple of tensors, or a split of a data set.
        num_samples: number of draws, at least 1.

    Returns:
        By observed site, a tensor of shape (num_samples, rows, ...).

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
        >>> draws = pvae.predict(model, guide, torch.tensor([2.0, -4.0]), num_samples=2000)["x"]
        >>> draws.mean(0).round()  # of N(x / 2, 1 / 2 + 1)
        tensor([ 1., -2.])
    """
    at_least(1, num_samples=num_samples)
    source = rows_on_device(x, model, guide)
    with _evaluating(model, guide):
        return stacked(
            _observed(model, guide, source, lambda program, _: program) for _ in range(num_samples)
        )


def reconstruct(model: _Model, guide: _Model, x: object) -> Tensor | dict[str, Tensor]:
    """The mean of p(x | z) at the latent codes of x; a draw if the distribution has no mean.

    Args:
        model: p(x, z), called with one batch.
        guide: q(z | x), called with the same arguments.
        x: a tensor of shape (rows, ...), a tuple of tensors, or a split of a data set.

    Returns:
        A tensor of shape (rows, ...), or one for each site if the model observes several.

    Raises:
        UndefinedQuantityError: if the model observes nothing.

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
    source = rows_on_device(x, model, guide)
    with _evaluating(model, guide):
        found = _observed(model, at_means(guide), source, lambda p, sites: at_means(p, sites))
    return _one_or_all(found)


def decode(model: _Model, codes: Mapping[str, Tensor], like: object) -> Tensor | dict[str, Tensor]:
    """The mean of p(x | z) at given latent codes; a draw if the distribution has no mean.

    Args:
        model: p(x, z), called with one batch.
        codes: by latent site, a tensor of shape (rows, ...); other sites are drawn.
        like: data with the number of rows and the shape of x; its values matter only for arguments
            that the model conditions on.

    Returns:
        A tensor of shape (rows, ...), or one for each site if the model observes several.

    Raises:
        ValueError: if a code is of a site that the model does not have.
        UndefinedQuantityError: if the model observes nothing.

    Example:
        >>> import pvae, pyro, torch
        >>> import pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> pvae.decode(model, {"z": torch.tensor([0.5, 3.0])}, torch.zeros(2))
        tensor([0.5000, 3.0000])
    """
    source = rows_on_device(like, model)
    with _evaluating(model):
        batch = source.first(len(source))
        latents = latent_sites(traced(model, batch))
        wrong = [name for name in codes if name not in latents]
        if wrong:
            raise ValueError(f"the model has no latent sites {wrong}: it has {list(latents)}")
        moved = {
            name: in_place(value.to(batch[0].device), latents[name], len(batch[0]))
            for name, value in codes.items()
        }
        sites = set(_observed_names(model, batch))
        program = at_means(poutine.condition(unobserved(model), moved), sites)
        found = draws_of(program, [batch])
    return _one_or_all({name: found[name] for name in found if name in sites})


def interpolate(
    model: _Model, guide: _Model, a: object, b: object, num_steps: int = 10
) -> Tensor | dict[str, Tensor]:
    """Means of p(x | z) on straight lines between the latent codes of two sets of data.

    Global sites, and further arguments that the model conditions on, are those of `a`.

    Args:
        model: p(x, z), called with one batch.
        guide: q(z | x), called with the same arguments.
        a: data at which the lines begin: what `infer` takes.
        b: data at which they end, with as many rows.
        num_steps: points of each line, both ends included; at least 2.

    Returns:
        A tensor of shape (num_steps, rows, ...), or one for each site if the model observes
        several.

    Raises:
        ValueError: if the numbers of rows differ.
        UndefinedQuantityError: if a latent site is discrete, so that there is no line.

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
        >>> pvae.interpolate(model, guide, torch.tensor([0.0]), torch.tensor([4.0]), 3)
        tensor([[0.],
                [1.],
                [2.]])
    """
    at_least(2, num_steps=num_steps)
    start, end = rows_on_device(a, model, guide), rows_on_device(b, model, guide)
    if len(start) != len(end):
        raise ValueError(f"a has {len(start)} rows and b has {len(end)}: give as many")
    with _evaluating(guide):
        few = start.first(2)
        latents = latent_sites(traced(guide, few))
    discrete = [name for name, site in latents.items() if is_discrete(site["fn"])]
    if discrete:
        raise UndefinedQuantityError(
            f"sites {discrete} are discrete, and there is no line between their values: decode "
            "codes of your choice with pvae.decode"
        )
    codes = infer(guide, start), infer(guide, end)
    local = [name for name, site in latents.items() if frame_of(site, len(few[0]))]
    found = []
    for share in torch.linspace(0, 1, num_steps).tolist():
        between = {
            name: code.lerp(codes[1][name], share) if name in local else code
            for name, code in codes[0].items()
        }
        means = decode(model, between, start)
        found.append(means if isinstance(means, dict) else {"": means})
    return _one_or_all(stacked(found))


# Running programs


@contextmanager
def _evaluating(*programs: _Model) -> Iterator[None]:
    with torch.no_grad(), evaluation_mode(*programs):
        yield


def _observed(
    model: _Model,
    guide: _Model,
    source: Rows,
    around: Callable[[_Model, set[str]], _Model],
) -> dict[str, Tensor]:
    """The observed sites of a model, drawn at the values of a guide, (rows, ...).

    Args:
        model: p(x, z).
        guide: q(z | x), or a program that takes its means.
        source: the data.
        around: from the model that draws its observed sites, and their names, to what is run.
    """
    global_values: dict[str, object] = {}

    def parts() -> Iterator[tuple[dict[str, Site], int]]:
        batches = list(source.batches(_ROWS))
        for batch, (sites, rows) in zip(batches, sites_of_batches(guide, batches), strict=True):
            values = {name: site["value"] for name, site in sites.items()}
            names = _observed_names(model, batch)
            program = poutine.condition(fixed(unobserved(model), global_values), values)
            drawn = dict(sample_sites(traced(around(program, set(names)), batch)))
            global_values.update({n: s["value"] for n, s in drawn.items() if not is_local(s, rows)})
            yield {name: drawn[name] for name in names}, rows

    return joined(parts())


def _observed_names(model: _Model, batch: _Batch) -> list[str]:
    names = list(observed_sites(traced(model, batch)))
    if not names:
        raise UndefinedQuantityError("the model observes nothing: give a site obs=x")
    return names


def _one_or_all(found: dict[str, Tensor]) -> Tensor | dict[str, Tensor]:
    return next(iter(found.values())) if len(found) == 1 else found


# Arguments


def _with_arguments(
    model: _Model, batch: _Batch, values: dict[str, object], sites: list[str]
) -> _Batch:
    """The batch with the arguments that are given by name; takes those that are no sites out."""
    program: Any = model.fn if isinstance(model, Program) else model
    program = program.forward if isinstance(program, nn.Module) else program
    names = list(inspect.signature(program).parameters)[: len(batch)]
    wrong = [name for name in values if name not in sites and name not in names]
    if wrong:
        raise ValueError(
            f"the model has no {wrong}: its sites are {sites}, and its arguments are {names}"
        )
    changed = list(batch)
    for index, name in enumerate(names):
        if name in values:
            part = batch[index]
            value = torch.as_tensor(values[name], dtype=part.dtype, device=part.device)
            changed[index] = value.expand_as(part)
    for name in set(values) - set(sites):
        del values[name]
    return tuple(changed)
