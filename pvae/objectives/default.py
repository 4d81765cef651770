"""The objective of a pair when none is named."""

from pyro import poutine
from pyro.infer import ELBO, Trace_ELBO, TraceEnum_ELBO

from pvae.pair.enumeration import plate_depth
from pvae.pair.traces import latent_sites

__all__ = ["default_objective"]


def default_objective(model_trace: poutine.Trace, guide_trace: poutine.Trace) -> ELBO:
    """`Trace_ELBO()`, or `TraceEnum_ELBO` if a latent site is marked for enumeration.

    Args:
        model_trace: of the model, replayed against the guide.
        guide_trace: of the guide.

    Example:
        >>> import pyro.distributions as dist
        >>> import pyro, torch
        >>> enumerated = lambda: pyro.sample(
        ...     "y", dist.Bernoulli(0.5), infer={"enumerate": "parallel"}
        ... )
        >>> trace = poutine.trace(enumerated).get_trace()
        >>> type(default_objective(trace, poutine.Trace())).__name__
        'TraceEnum_ELBO'
    """
    sites = [*latent_sites(model_trace).values(), *latent_sites(guide_trace).values()]
    if any((site["infer"] or {}).get("enumerate") for site in sites):
        return TraceEnum_ELBO(max_plate_nesting=plate_depth(model_trace, guide_trace))
    return Trace_ELBO()
