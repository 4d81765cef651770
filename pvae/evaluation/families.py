"""A latent site's family of distributions, with free parameters for each datum."""

from dataclasses import dataclass
from typing import Any, cast

import pyro.distributions as dist
import torch
from pyro.poutine.indep_messenger import CondIndepStackFrame
from torch import Tensor
from torch.distributions import Distribution, Independent, constraints, transform_to
from torch.distributions.constraints import Constraint

from pvae.evaluation.estimate import UndefinedQuantityError
from pvae.pair.traces import Site

__all__ = ["Family", "family_of"]

# Of parameters that say the same, the one that a distribution is built from.
_ALIASES = {"scale_tril": {"covariance_matrix", "precision_matrix"}, "logits": {"probs"}}


@dataclass(frozen=True)
class Family:
    """One site's distributions, built from unconstrained parameters of their own.

    Attributes:
        kind: the type of the distribution, without what wraps it.
        constraints: by name of a parameter.
        leaves: the free parameters in the order of the names; the data plate is dimension `dim`.
        dim: the data plate's dimension, from the left.
        wrappers: what surrounds the distribution, from the inside out: how many dimensions
            `to_event` takes, or a mask.
    """

    kind: type[Distribution]
    constraints: dict[str, Constraint]
    leaves: list[Tensor]
    dim: int
    wrappers: list[int | Tensor]

    def distribution(self, count: int = 1, *, detached: bool = False) -> Distribution:
        """The site's distribution, its rows repeated so many times.

        Args:
            count: how often all rows come, one after the other.
            detached: whether its parameters are constants to gradients.
        """
        values = {}
        for (name, constraint), leaf in zip(self.constraints.items(), self.leaves, strict=True):
            value = transform_to(constraint)(leaf.detach() if detached else leaf)
            values[name] = torch.cat([value] * count, self.dim)
        built = cast(Any, self.kind)(**values, validate_args=False)
        for wrapper in self.wrappers:
            if isinstance(wrapper, int):
                built = built.to_event(wrapper)
            else:
                built = built.mask(torch.cat([wrapper] * count, self.dim))
        return cast(Distribution, built)


def family_of(name: str, site: Site, frame: CondIndepStackFrame) -> Family:
    """The family of a latent site, started at the distribution that the guide gave it.

    Args:
        name: of the site.
        site: a latent site of the guide's trace.
        frame: the data plate.

    Raises:
        ValueError: the site is discrete or not reparameterized, or its distribution cannot be built
            anew from the parameters that it names.
    """
    fn = cast(Distribution, site["fn"])
    assert frame.dim is not None
    base = fn
    wrappers: list[int | Tensor] = []
    while isinstance(base, Independent | dist.MaskedDistribution):
        if isinstance(base, Independent):
            wrappers.insert(0, base.reinterpreted_batch_ndims)
        else:
            wrappers.insert(
                0, torch.as_tensor(base._mask, device=site["value"].device).expand(base.batch_shape)
            )
        base = base.base_dist
    kind = type(base).__name__
    if not fn.has_rsample:
        raise UndefinedQuantityError(
            f"site {name!r} draws from {kind}, which is not reparameterized: its parameters cannot "
            "be fitted to a datum by gradients of the bound"
        )
    if isinstance(base, dist.Delta):
        raise UndefinedQuantityError(f"site {name!r} is a point (Delta): it has no bound to fit")
    named = _parameters(base)
    family = None
    if named:
        leaves = [
            transform_to(constraint).inv(value.detach().clone()).requires_grad_()
            for constraint, value in named.values()
        ]
        family = Family(
            type(base),
            {key: constraint for key, (constraint, _) in named.items()},
            leaves,
            len(fn.batch_shape) + frame.dim,
            wrappers,
        )
    if family is None or not _same(family, fn):
        raise UndefinedQuantityError(
            f"site {name!r} draws from {kind}, which cannot be built anew from free parameters "
            "(a flow's are those of its networks): the gap is defined for families in closed form, "
            "Normal, MultivariateNormal, LogNormal, Gamma, Beta and their like"
        )
    return family


def _parameters(base: Distribution) -> dict[str, tuple[Constraint, Tensor]]:
    """By name, constraint and value of what a distribution is built from; {} where not known."""
    found = {}
    for name, constraint in base.arg_constraints.items():
        if any(name in others and key in base.arg_constraints for key, others in _ALIASES.items()):
            continue
        value = getattr(base, name, None)
        try:
            transform_to(constraint)
        except NotImplementedError:
            return {}
        if not isinstance(value, Tensor) or constraint is constraints.dependent:
            return {}
        shape = base.batch_shape + value.shape[value.dim() - constraint.event_dim :]
        found[name] = constraint, value.expand(shape)
    return found


def _same(family: Family, fn: Distribution) -> bool:
    """Whether the family, as it starts, is the distribution it was taken from."""
    with torch.no_grad():
        try:
            built = family.distribution()
        except TypeError:  # it takes more than its constrained parameters
            return False
        if built.batch_shape != fn.batch_shape or built.event_shape != fn.event_shape:
            return False
        draws = fn.sample()
        return torch.allclose(built.log_prob(draws), fn.log_prob(draws), atol=1e-2, rtol=1e-3)
