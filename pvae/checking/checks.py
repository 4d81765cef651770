"""The table of checks, and `check`, which runs them on a pair."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import pyro
import torch
from pyro.infer import ELBO
from torch import Tensor

from pvae.checking.dependence import (
    constraint_missing,
    data_made_by_the_model,
    likelihood_ignores_latents,
    parameters_detached_in_part,
)
from pvae.checking.failures import failed
from pvae.checking.inspection import Inspection, describe_sites
from pvae.checking.leaks import leaks_across_rows
from pvae.checking.likelihood import probabilities_as_logits, saturated_outputs
from pvae.checking.objective import (
    draws_without_gradient,
    enumeration_without_effect,
    incompatible_objective,
)
from pvae.checking.parameters import (
    names_used_twice,
    parameters_without_gradient,
    thawed_parameters,
    unregistered_networks,
)
from pvae.checking.plates import (
    global_sites_in_the_data_plate,
    no_data_plate,
    one_batch_size_only,
    subsample_replaced,
    undeclared_dimensions,
)
from pvae.checking.report import Finding, PairError, Report, SiteRow
from pvae.checking.scales import wrong_scales
from pvae.checking.sites import (
    auxiliary_sites,
    shapes_of_latents,
    sites_at_random,
    unmatched_sites,
)
from pvae.checking.supports import data_outside_support, guide_outside_prior
from pvae.data import Splits, batches
from pvae.data.minibatches import default_batch_size
from pvae.objectives import Objective, default_objective, require_instance
from pvae.objectives import get as get_objective
from pvae.pair.pair import Pair
from pvae.pair.preserve import (
    preserve_flags,
    preserve_gradients,
    preserve_modes,
    preserve_state,
)
from pvae.pair.program import names_index
from pvae.pair.traces import PROGRAM_ERRORS

__all__ = ["check", "inspect_pair"]

_Check = Callable[[Inspection], Iterator[Finding]]

# In stages: after an error, the checks of later stages would be meaningless.
_CHECKS: tuple[tuple[_Check, ...], ...] = (
    (unmatched_sites,),
    (data_outside_support, shapes_of_latents),
    (guide_outside_prior,),
    (undeclared_dimensions,),
    (no_data_plate, one_batch_size_only, wrong_scales, names_used_twice, thawed_parameters),
    (incompatible_objective, enumeration_without_effect, subsample_replaced),
    (
        unregistered_networks,
        sites_at_random,
        auxiliary_sites,
        draws_without_gradient,
        saturated_outputs,
        probabilities_as_logits,
        global_sites_in_the_data_plate,
        leaks_across_rows,
        parameters_without_gradient,
        parameters_detached_in_part,
        data_made_by_the_model,
        likelihood_ignores_latents,
        constraint_missing,
    ),
)


def check(
    model: Callable[..., object],
    guide: Callable[..., object],
    *data: object,
    objective: ELBO | str | None = None,
    missing: str | None = None,
) -> Report:
    """Check a pair for mistakes that make training wrong, and for what may be unintended.

    Runs both programs on one batch about 15 times, in train mode. Generators, buffers, modes,
    parameters, their gradients and Pyro's parameter store are preserved.

    Args:
        model: p(x, z): a function, a bound method, an `nn.Module` or a `PyroModule`.
        guide: q(z | x), called with the same arguments.
        *data: tensors, which are the arguments of the programs, each of shape (rows, ...); or what
            `pvae.elbo` takes (a split, an array, a tuple), `Splits`, a `Dataset` or a `DataLoader`,
            of which the first batch of at most 128 rows is used. Some checks need three rows.
        objective: the bound to train with, or its name (default: as of `fit`).
        missing: "nan" if NaN means that a value is missing, as in `fit`.

    Returns:
        A `Report` with `.sites` and `.findings`; it prints a table and one line per finding.

    Raises:
        PairError: if training would be incorrect; its message lists every error with file and line,
            and `.findings` has the warnings as well.
        TypeError: if the data are of another kind.
        ValueError: if the batch is empty.

    Example:
        >>> import pvae, pyro, torch
        >>> import pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 1.0))
        >>> print(pvae.check(model, guide, torch.randn(8)))
        site  program  plates  batch  event  distribution
        z     guide    data 8  (8,)   ()     Normal, reparameterized
        z     model    data 8  (8,)   ()     Normal, reparameterized
        x     model    data 8  (8,)   ()     Normal, observed
        nothing found
    """
    batch = tuple(part.clone() for part in _batch_of(data))  # a program may change them in place
    if isinstance(objective, str):
        objective = get_objective(objective, x_shape=batch[0].shape[1:])
    require_instance(objective)
    # A pair of its own, so that what the check registers disappears with it.
    pair = Pair(model, guide)
    pair.missing = missing == "nan"
    if names_index(guide, len(batch)):
        pair.index_at = len(batch)
        batch = (*batch, torch.arange(len(batch[0])))
    with pair.scope(), _preserve(pair):
        if isinstance(objective, Objective):
            pair.include(objective.networks())
        try:
            with pyro.validation_enabled(True):
                traces = pair.initialize(batch)
        except PROGRAM_ERRORS as error:
            raise PairError([failed(error, batch)]) from error
        with _preserve(pair):
            pair.train()
            report, _ = inspect_pair(pair, batch, objective or default_objective(*traces))
    if report.errors:
        raise PairError(list(report.findings))
    return report


def inspect_pair(
    pair: Pair, batch: tuple[Tensor, ...], objective: ELBO
) -> tuple[Report, Inspection | None]:
    """Run all checks on an initialized pair; findings are reported, not raised.

    Args:
        pair: an initialized pair.
        batch: the arguments of both programs, each of shape (rows, ...).
        objective: the bound to train with.

    Returns:
        The report, and the inspection it is based on; None if a program failed.
    """
    networks = list(pair.networks.values())
    inspection: Inspection | None = None
    rows: tuple[SiteRow, ...] = ()
    findings: list[Finding] = []
    with pair.scope(), preserve_state(networks), _preserve(pair):
        try:
            with pyro.validation_enabled(True):  # distributions record how they were made
                inspection = Inspection(pair, batch, objective)
            rows = describe_sites(inspection)
            # Pyro's own validation would end a check that has more to say.
            with pyro.validation_enabled(False):
                for stage in _CHECKS:
                    findings += [found for run in stage for found in run(inspection)]
                    if any(finding.severity == "error" for finding in findings):
                        break
        except PROGRAM_ERRORS as error:
            findings.append(failed(error, batch, pair.elsewhere()))
    return Report(rows, tuple(findings)), inspection


def _batch_of(data: tuple[object, ...]) -> tuple[Tensor, ...]:
    """The arguments of the programs: given as tensors, or the first batch of data."""
    if data and all(isinstance(part, Tensor) for part in data):
        batch = cast("tuple[Tensor, ...]", data)
        if any(len(part) == 0 for part in batch if part.dim()):
            raise ValueError("check needs a batch of at least one row, and some checks need three")
        return batch
    if len(data) != 1:
        kinds = [type(part).__name__ for part in data]
        raise TypeError(f"check takes tensors, or data as one argument, not {kinds}")
    (source,) = data
    source = source.train if isinstance(source, Splits) else source
    size = default_batch_size(source)
    return batches(source, batch_size=size, device=torch.device("cpu"), seed=0).first()


@contextmanager
def _preserve(pair: Pair) -> Iterator[None]:
    """Restore modes, flags and gradients of the pair's networks on exit."""
    networks = list(pair.networks.values())
    parameters = [parameter for network in networks for parameter in network.parameters()]
    with preserve_modes(networks), preserve_flags(parameters), preserve_gradients(parameters):
        yield
