"""The posterior that a guide defines: its distributions, and the classes of enumerated sites."""

import math
from collections.abc import Callable

import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from torch import Tensor
from torch.distributions import Distribution

from pvae._validation import at_least
from pvae.pair.distributions import same_density
from pvae.pair.enumeration import SummedOut, enumerated, marked_sites, plate_depth
from pvae.pair.pair import rows_on_device
from pvae.pair.plate import to_rows
from pvae.pair.preserve import evaluation_mode, preserve_generators
from pvae.pair.site_values import frame_of
from pvae.pair.traces import Site, latent_sites, paired_traces
from pvae.pair.undefined import UndefinedQuantityError

__all__ = ["Marginals", "Posterior", "marginals", "posterior"]

_ROWS = 1024  # in one call of a program


class Posterior(dict[str, Distribution]):
    """The distributions q(z | x) by site.

    Raises:
        UndefinedQuantityError: at a site whose distribution depends on other draws of the guide.

    Example:
        >>> Posterior({"z": torch.distributions.Normal(0.0, 1.0)}, dependent=("z2",))["z"]
        Normal(loc: 0.0, scale: 1.0)
    """

    def __init__(self, sites: dict[str, Distribution], dependent: tuple[str, ...] = ()) -> None:
        super().__init__(sites)
        self.dependent = dependent

    def __missing__(self, name: str) -> Distribution:
        """Say why a site has no distribution of its own."""
        if name not in self.dependent:
            raise KeyError(name)
        raise UndefinedQuantityError(
            f"the distribution of site {name!r} depends on other draws of the guide, so q({name} | "
            f"x) is an integral over them: draw from it with pvae.infer(guide, x, num_samples=...)"
        )


def posterior(guide: Callable[..., object], x: object) -> Posterior:
    """The distributions q(z | x) of all sites that depend on x alone.

    Args:
        guide: q(z | x), called with one batch; all rows are passed at once.
        x: a tensor of shape (rows, ...), a tuple of tensors, or a split of a data set.

    Returns:
        A dict from site to distribution, whose batch shape has the rows. Asking it for a site that
        depends on other draws of the guide, as the lower layers of a hierarchy do, raises
        `UndefinedQuantityError`.

    Example:
        >>> import pvae, pyro, torch
        >>> import pyro.distributions as dist
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         z2 = pyro.sample("z2", dist.Normal(x / 2, 0.5))
        ...         pyro.sample("z1", dist.Normal(z2, 0.5))
        >>> found = pvae.posterior(guide, torch.tensor([2.0, -4.0]))
        >>> found["z2"].mean
        tensor([ 1., -2.])
        >>> list(found), found.dependent
        (['z2'], ('z1',))
    """
    source = rows_on_device(x, guide)
    batch = source.first(len(source))
    with torch.no_grad(), evaluation_mode(guide), preserve_generators():
        once, again = (latent_sites(poutine.trace(guide).get_trace(*batch)) for _ in range(2))
    first = next(iter(once), None)
    alone = {
        name: site["fn"]
        for name, site in once.items()
        if name == first or _of_x_alone(site, again.get(name))
    }
    return Posterior(alone, tuple(name for name in once if name not in alone))


def _of_x_alone(once: Site, again: Site | None) -> bool:
    """Whether a site has the same distribution in two runs with different draws before it."""
    try:
        return again is not None and same_density(once, again)
    except (LookupError, NotImplementedError, RuntimeError, ValueError):
        return False  # a flow without an inverse, or values of other shapes


class Marginals(dict[str, Tensor]):
    """Probabilities of classes by site, with their Monte Carlo errors.

    Attributes:
        mc_error: by site, standard errors of the probabilities, of the same shape; 0 where no draw
            enters, NaN for a single draw.

    Example:
        >>> found = Marginals({"y": torch.tensor([[0.2, 0.8]])}, {"y": torch.zeros(1, 2)})
        >>> found["y"].argmax(-1), found.mc_error["y"]
        (tensor([1]), tensor([[0., 0.]]))
    """

    def __init__(self, probabilities: dict[str, Tensor], mc_error: dict[str, Tensor]) -> None:
        super().__init__(probabilities)
        self.mc_error = mc_error


def marginals(
    model: Callable[..., object],
    guide: Callable[..., object],
    x: object,
    *,
    num_samples: int = 1,
) -> Marginals:
    """The probabilities of the classes of enumerated sites, given x.

    A site that is enumerated in the guide has q(y | x) from the guide itself. One that is
    enumerated in the model, which the guide does not have, has p(y | x, z) by Bayes' rule, averaged
    over draws of the other latents z from the guide.

    Args:
        model: p(x, y, z), called with one batch.
        guide: q(z | x), called with the same arguments.
        x: a tensor of shape (rows, ...), a tuple of tensors, or a split of a data set.
        num_samples: draws of the sites that the classes depend on, at least 1.

    Returns:
        A dict from site to probabilities, shape (rows, ..., classes), with `.mc_error`.

    Raises:
        UndefinedQuantityError: if no site is marked for enumeration in parallel.

    Example:
        >>> import pvae, pyro, torch
        >>> import pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         y = pyro.sample("y", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
        ...         pyro.sample("x", dist.Normal(4 * y - 2, 1.0), obs=x)
        >>> found = pvae.marginals(model, lambda x: None, torch.tensor([-2.0, 0.0, 2.0]))
        >>> found["y"][:, 1]
        tensor([3.3535e-04, 5.0000e-01, 9.9966e-01])
    """
    at_least(1, num_samples=num_samples)
    source = rows_on_device(x, model, guide)
    parts: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []
    with torch.no_grad(), evaluation_mode(model, guide):
        for batch in source.batches(_ROWS):
            draws = [_probabilities(model, guide, batch) for _ in range(num_samples)]
            tables = {name: torch.stack([draw[name] for draw in draws]) for name in draws[0]}
            means = {name: table.mean(0) for name, table in tables.items()}
            parts.append((means, {name: _error(table) for name, table in tables.items()}))
    joined = [
        {name: torch.cat([part[i][name] for part in parts]) for name in parts[0][i]} for i in (0, 1)
    ]
    return Marginals(*joined)


def _error(draws: Tensor) -> Tensor:
    """Standard errors of the mean of draws, (num_samples, ...)."""
    if len(draws) == 1:
        return torch.full(draws.shape[1:], math.nan)
    return draws.std(0) / math.sqrt(len(draws))


def _probabilities(
    model: Callable[..., object], guide: Callable[..., object], batch: tuple[Tensor, ...]
) -> dict[str, Tensor]:
    """The probabilities at one draw of the other latents, each (rows, ..., classes)."""
    traces = paired_traces(model, guide, batch)
    rows = len(batch[0])
    found = {
        name: _of_classes(site["fn"], site, rows)
        for name, site in latent_sites(traces[1]).items()
        if (site["infer"] or {}).get("enumerate") == "parallel"
    }
    names = marked_sites(*traces)
    if names:
        depth = plate_depth(*traces)
        # Sites that the guide enumerates as well are drawn here.
        drawn = enumerated(guide, SummedOut((), depth))
        objective = TraceEnum_ELBO(max_plate_nesting=depth)
        sites = latent_sites(traces[0])
        for name, fn in objective.compute_marginals(model, drawn, *batch).items():
            found[name] = _of_classes(fn, sites[name], rows)
    if not found:
        raise UndefinedQuantityError(
            "no site of model or guide is marked for enumeration: mark discrete sites with "
            "infer={'enumerate': 'parallel'}, or by pyro.infer.config_enumerate"
        )
    return found


def _of_classes(fn: Distribution, site: Site, rows: int) -> Tensor:
    """The probabilities of all values of a distribution, (rows, ..., classes)."""
    log_probs = fn.log_prob(fn.enumerate_support(expand=False))
    by_class = log_probs.movedim(0, -1).exp()
    frame = frame_of(site, rows)
    return by_class if frame is None else to_rows(by_class, frame, 1)
