"""Is this pair what its author thinks it is? One check a file, run from one table."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pyro
from pyro.infer import ELBO, Trace_ELBO
from torch import Tensor

from pvae.checking.dimensions import undeclared_dimensions
from pvae.checking.failures import OF_PROGRAMS, failed, program_failed
from pvae.checking.finding import Finding, PairError
from pvae.checking.frozen import thawed_parameters
from pvae.checking.gradients import parameters_without_gradient, unregistered_networks
from pvae.checking.inspection import Subject
from pvae.checking.leaks import leaks_across_rows
from pvae.checking.likelihood import probabilities_as_logits, saturated_outputs
from pvae.checking.names import names_used_twice
from pvae.checking.objective import unsuited_objective
from pvae.checking.plates import no_data_plate, one_batch_size_only
from pvae.checking.prior_support import guide_outside_prior
from pvae.checking.reparameterized import draws_without_gradient
from pvae.checking.report import Report, SiteRow, described
from pvae.checking.scales import wrong_scales
from pvae.checking.shapes import shapes_of_latents
from pvae.checking.shared import global_sites_in_the_data_plate
from pvae.checking.sites import unmatched_sites
from pvae.checking.structure import sites_at_random
from pvae.checking.supports import Supports
from pvae.engine.step import undone
from pvae.objectives import Objective
from pvae.pair.distributions import data_outside_support
from pvae.pair.pair import Belongings

__all__ = [
    "OF_PROGRAMS",
    "Finding",
    "PairError",
    "Report",
    "SiteRow",
    "Supports",
    "check",
    "examine",
    "program_failed",
]

_Check = Callable[[Subject], Iterator[Finding]]

# In stages: an error in one would make the checks of the next meaningless.
_CHECKS: tuple[tuple[_Check, ...], ...] = (
    (unmatched_sites,),
    (data_outside_support, shapes_of_latents),
    (guide_outside_prior,),
    (undeclared_dimensions,),
    (no_data_plate, one_batch_size_only, wrong_scales, names_used_twice, thawed_parameters),
    (unsuited_objective,),
    (
        unregistered_networks,
        sites_at_random,
        draws_without_gradient,
        saturated_outputs,
        probabilities_as_logits,
        global_sites_in_the_data_plate,
        leaks_across_rows,
        parameters_without_gradient,
    ),
)


def check(
    model: Callable[..., object],
    guide: Callable[..., object],
    *batch: Tensor,
    objective: ELBO | None = None,
) -> Report:
    """Look for the mistakes that make training wrong, and for what may not be meant.

    Both programs are run on the batch a few times, in train mode. Generators, buffers, modes,
    parameters with their gradients and Pyro's parameter store are left as they were.

    Args:
        model: p(x, z): a function, a bound method, an `nn.Module` or a `PyroModule`.
        guide: q(z | x), called with the same arguments.
        *batch: their arguments, each of shape (rows, ...); of three rows or more, since some checks
            change a row, or leave one out.
        objective: the bound to train with, `Trace_ELBO()` where there is none.

    Returns:
        A `Report`: `.sites` and `.findings`; printed, a table and a line a finding.

    Raises:
        PairError: training would be wrong; its message has every error with file and line, and
            `.findings` the warnings as well.
        TypeError: a batch that is not made of tensors.
        ValueError: an empty batch.

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
    if not batch or not all(isinstance(part, Tensor) for part in batch):
        kinds = [type(part).__name__ for part in batch]
        raise TypeError(f"check takes the programs' arguments as tensors, not {kinds}")
    if any(len(part) == 0 for part in batch if part.dim()):
        raise ValueError("check needs a batch of at least one row, better of three")
    batch = tuple(part.clone() for part in batch)  # a program may change them in place
    # A scope of its own: what the check registers is gone with it.
    belongings = Belongings(model, guide)
    with belongings.scope(), _untouched(belongings):
        if isinstance(objective, Objective):
            belongings.include(objective.networks())
        try:
            with pyro.validation_enabled(True):
                belongings.discover(batch)
        except OF_PROGRAMS as error:
            raise PairError([failed(error, batch)]) from error
        with _untouched(belongings):
            belongings.train()
            report = examine(belongings, batch, objective or Trace_ELBO())
    if report.errors:
        raise PairError(list(report.findings))
    return report


def examine(belongings: Belongings, batch: tuple[Tensor, ...], objective: ELBO) -> Report:
    """Run the checks on a pair whose parts are known; no error is raised, all are reported."""
    networks = list(belongings.networks.values())
    rows: tuple[SiteRow, ...] = ()
    findings: list[Finding] = []
    with belongings.scope(), undone(networks), _untouched(belongings):
        try:
            with pyro.validation_enabled(True):  # distributions remember how they were made
                subject = Subject(belongings, batch, objective)
            rows = described(subject)
            # Pyro's own validation would end a check where it has more to say.
            with pyro.validation_enabled(False):
                for stage in _CHECKS:
                    findings += [found for run in stage for found in run(subject)]
                    if any(finding.severity == "error" for finding in findings):
                        break
        except OF_PROGRAMS as error:
            findings.append(failed(error, batch, belongings.elsewhere()))
    return Report(rows, tuple(findings))


@contextmanager
def _untouched(belongings: Belongings) -> Iterator[None]:
    """Networks have the modes, flags and gradients after the block that they had before it."""
    networks = list(belongings.networks.values())
    modes = [(part, part.training) for network in networks for part in network.modules()]
    flags = [
        (parameter, parameter.requires_grad, parameter.grad)
        for network in networks
        for parameter in network.parameters()
    ]
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
        for parameter, flag, gradient in flags:
            parameter.requires_grad_(flag)
            parameter.grad = gradient
