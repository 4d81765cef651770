"""The importance-weighted bound; its signal-to-noise ratio does not vanish as K grows."""

from collections.abc import Callable
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from torch import Tensor

from pvae.objectives.compatibility import (
    require_local_sites,
    require_reparameterized,
    require_repeatable_guide,
)
from pvae.objectives.constant import log_q_of_values
from pvae.objectives.iwae import importance_weighted, normalized_sum
from pvae.objectives.objective import Objective, PerDatum
from pvae.objectives.structure import PairStructure
from pvae.pair.distributions import is_delta, value_masks
from pvae.pair.log_prob import own_scale
from pvae.pair.particles import Proposal, total
from pvae.pair.traces import Site

__all__ = ["DReG"]


class DReG(Objective):
    """The bound of `IWAE` with a doubly reparameterized gradient for the guide.

    The model receives IWAE's gradient, sum_k w_k dlog p(x, z_k), with weights normalized over k,
    and the guide sum_k w_k^2 dlog w_k / dz_k dz_k, without the score of q. Both are unbiased for
    the bound. Point masses (`Delta`) are functions of the draws, and of parameters, which receive
    sum_k w_k dlog w_k / dv dv. The guide runs twice.

    References:
        Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives (G. Tucker, D. Lawson,
        S. Gu, C. Maddison, 2018), https://arxiv.org/abs/1810.04152

    Args:
        num_particles: K, at least 1; equal to `STL` for K = 1.

    Example:
        >>> import pvae, torch
        >>> model = pvae.models.VAE(x_shape=(4,), z_dim=2, hidden=8)
        >>> guide = pvae.guides.MeanField(x_shape=(4,), z_dim=2, hidden=8)
        >>> x = torch.rand(32, 4).round()
        >>> fit = pvae.fit(model, guide, x, objective=pvae.objectives.DReG(5), epochs=1,
        ...                progress=False)
        >>> len(fit.history)
        1
    """

    def __init__(self, num_particles: int = 5) -> None:
        super().__init__(num_particles)

    def check_compatible(self, structure: PairStructure, batch: tuple[Any, ...]) -> None:
        """Require reparameterized local sites and a guide that can run twice."""
        require_reparameterized(self, structure, "VIMCO, or RWS")
        require_local_sites(self, structure, "IWAE")
        require_repeatable_guide(self, structure, batch)

    def estimate(self, structure: PairStructure, batch: tuple[Any, ...]) -> PerDatum:
        """The bound of each datum, and the surrogate of its two gradients."""
        particles = structure.particles
        with_leaves = _Leaves()
        drawn = particles.propose(batch, self.num_particles, handler=with_leaves)
        weights: list[Tensor] = []
        proposal = _rejoined(structure, drawn, with_leaves.drawn, weights)
        draw = particles.evaluate(batch, proposal)
        log_q = log_q_of_values(structure, batch, proposal)
        log_weights = total(draw.log_p.local) - total(log_q.local)
        weights.append(log_weights.detach().softmax(0))
        densities = particles.log_q(drawn, drawn.point_masses)
        surrogate = normalized_sum(log_weights, log_weights - total(densities.local))
        return PerDatum(importance_weighted(log_weights), surrogate, draw.global_terms)


class _Leaves(Messenger):
    """Cuts the graph after each reparameterized draw, so that a program continues with a leaf.

    Attributes:
        drawn: by site, the draw before the cut; its graph reaches parameters, and the leaves of
            earlier draws.
    """

    def __init__(self) -> None:
        super().__init__()
        self.drawn: dict[str, Tensor] = {}

    def _pyro_post_sample(self, msg: Message[Any, Any]) -> None:
        value = msg["value"]
        if isinstance(value, Tensor) and value.requires_grad and not is_delta(msg["fn"]):
            self.drawn[str(msg["name"])] = value
            msg["value"] = value.detach().requires_grad_()


def _rejoined(
    structure: PairStructure, proposal: Proposal, drawn: dict[str, Tensor], weights: list[Tensor]
) -> Proposal:
    """The proposal with values whose gradients reach earlier draws whole, and parameters weighted.

    If log q of a site has the scale b, its score times w has the expectation of b w (1 - w) times
    the gradient along the path of the draw; so the path counts w (1 - b (1 - w)), which is w^2 for
    b = 1, and w for a point mass, which has no score. This holds for the derivative of a draw with
    respect to its site's parameters; later sites, whose factors may differ, pass their whole
    derivative on to it. The weights are known only after the model has run.
    """
    spread = structure.particles.spread
    leaves: list[Tensor] = []
    nodes: list[Tensor] = []
    values: dict[str, Tensor] = {}
    for name, value in proposal.values.items():
        site, node = proposal.sites[name], value
        counted = 0.0 if is_delta(site["fn"]) else _counted(structure, site)

        def factor(name: str = name, counted: float | Tensor = counted) -> float | Tensor:
            return 1 - counted * (1 - spread(proposal, name, weights[0]))

        draw = drawn.get(name, value)
        if draw.requires_grad:
            node = _Rejoin.apply(factor, draw, list(leaves), *nodes)  # type: ignore[no-untyped-call]
        if name in drawn:
            leaves.append(value)
            nodes.append(node)
        values[name] = node
    return Proposal(proposal.trace, proposal.count, proposal.depth, values)


class _Rejoin(torch.autograd.Function):
    """A draw whose gradient is multiplied by a factor, but not where it reaches earlier draws."""

    @staticmethod
    def forward(
        ctx: Any,
        factor: Callable[[], float | Tensor],
        draw: Tensor,
        leaves: list[Tensor],
        *earlier: Tensor,
    ) -> Tensor:
        """The draw itself.

        Args:
            ctx: of autograd.
            factor: called in the backward pass.
            draw: as a function of parameters and of leaves that stand for earlier draws.
            leaves: those leaves.
            *earlier: the earlier draws.
        """
        ctx.factor, ctx.draw, ctx.leaves = factor, draw, leaves
        return draw.detach().clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of the draw and of the earlier draws."""
        earlier: tuple[Tensor | None, ...] = ()
        if ctx.leaves:
            earlier = torch.autograd.grad(
                ctx.draw, ctx.leaves, gradient, retain_graph=True, allow_unused=True
            )
        return None, gradient * ctx.factor(), None, *earlier


def _counted(structure: PairStructure, site: Site) -> float | Tensor:
    """The scale and masks of log q at a site, broadcastable to its value."""
    events = len(site["fn"].event_shape)
    scale = own_scale(site, structure.plate)
    if isinstance(scale, Tensor):
        scale = scale.reshape(*scale.shape, *(1,) * events)
    for mask in value_masks(site):
        scale = scale * mask
    return scale
