"""The family of a latent site's distribution, with free parameters for each datum."""

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

# Of equivalent parameters, the one that a distribution is built from.
_ALIASES = {"scale_tril": {"covariance_matrix", "precision_matrix"}, "logits": {"probs"}}


@dataclass(frozen=True)
class Family:
    """The distributions of one site, built from unconstrained parameters.

    Attributes:
        kind: the type of the base distribution.
        constraints: keyed by the name of the parameter.
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
        """The site's distribution with its rows repeated `count` times.

        Args:
            count: number of repetitions.
            detached: whether its parameters are constants.
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
    """The family of a latent site, initialized at the guide's distribution.

    Args:
        name: name of the site.
        site: a latent site of the guide's trace.
        frame: the data plate.

    Raises:
        UndefinedQuantityError: if the site is discrete or not reparameterized, or its distribution
            cannot be rebuilt from its parameters.
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
            f"site {name!r} draws from {kind}, which is not reparameterized, so its parameters "
            "cannot be fitted to a datum by gradients of the bound"
        )
    if isinstance(base, dist.Delta):
        raise UndefinedQuantityError(
            f"site {name!r} is a point mass (Delta), which has no bound to fit"
        )
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
            f"site {name!r} draws from {kind}, which cannot be rebuilt from free parameters, as a "
            "flow cannot: the gap is defined for families in closed form, such as Normal, "
            "MultivariateNormal, LogNormal, Gamma or Beta"
        )
    return family


def _parameters(base: Distribution) -> dict[str, tuple[Constraint, Tensor]]:
    """Constraint and value of each parameter of a distribution; {} if they are unknown."""
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
    """Whether the initial family equals the distribution that it was taken from."""
    with torch.no_grad():
        try:
            built = family.distribution()
        except TypeError:  # it takes more than its constrained parameters
            return False
        if built.batch_shape != fn.batch_shape or built.event_shape != fn.event_shape:
            return False
        draws = fn.sample()
        return torch.allclose(built.log_prob(draws), fn.log_prob(draws), atol=1e-2, rtol=1e-3)
