"""Particles: several draws from the guide for each datum of a batch, and the model at them."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from torch import Tensor

from pvae.pair.log_prob import DataPlate, Terms, by_row, log_probs, site_log_prob
from pvae.pair.tiling import Overfull, tiled_arguments
from pvae.pair.traces import Site, sample_sites

__all__ = ["Draw", "Particles", "Proposal", "total", "trace_of"]

_Batch = tuple[Any, ...]
_PLATE = "particles of the data"


@dataclass(frozen=True)
class Proposal:
    """What the guide proposes: a trace of it, and in which layout its values are.

    Attributes:
        trace: of the guide.
        count: particles of each datum.
        depth: the plate of particles is at dimension -depth - 1; 0 where particles are further rows
            of a tiled batch.
        values: by site, the values at which the model is weighed; those of the trace as a rule.
    """

    trace: poutine.Trace
    count: int
    depth: int
    values: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.values:
            self.values.update({n: site["value"] for n, site in sample_sites(self.trace)})

    @property
    def sites(self) -> dict[str, Site]:
        """The sample sites of the guide."""
        return dict(sample_sites(self.trace))


@dataclass(frozen=True)
class Draw:
    """Particles with their log-probabilities.

    Attributes:
        proposal: of the guide.
        model: the trace of the model at the proposed values, on the tiled batch.
        log_p: of the model by site; local ones have shape (particles, rows), shared ones ().
        log_q: of the guide, likewise.
        particles: what drew them.
    """

    proposal: Proposal
    model: poutine.Trace
    log_p: Terms
    log_q: Terms
    particles: "Particles"

    @property
    def log_weights(self) -> Tensor:
        """log p(x, z) - log q(z | x) of the local sites, shape (particles, rows), in nats."""
        return total(self.log_p.local) - total(self.log_q.local)

    @property
    def score(self) -> Tensor:
        """log q of the local sites whose draws have no gradient, shape (particles, rows).

        Without scale or mask, since what is drawn counts elsewhere.
        """
        return self.particles.score(self.proposal)

    @property
    def shared(self) -> Tensor:
        """log p - log q of the global sites, one draw for all particles; shape ()."""
        return total(self.log_p.shared) - total(self.log_q.shared)


class Particles:
    """Draws particles from a pair.

    The model meets them as further rows of its batch, so that any program with a data plate will
    do. A guide that takes a further dimension is run once for all of them.

    Args:
        model: p(x, z).
        guide: q(z | x).
        plate: the data plate, which is vectorized.
        depth: of the plate of particles in the guide, as in `Proposal`; see `takes_particles`.
        scaled: whether log-probabilities are multiplied by scales, as `site_log_prob` does.
    """

    def __init__(
        self,
        model: Callable[..., object],
        guide: Callable[..., object],
        plate: DataPlate,
        *,
        depth: int = 0,
        scaled: bool = False,
    ) -> None:
        self.model, self.guide, self.plate = model, guide, plate
        self.depth, self.scaled = depth, scaled

    def draw(
        self, batch: _Batch, count: int, *, detached: bool = False, tiled: bool = False
    ) -> Draw:
        """Draw from the guide, and run the model at the draws.

        Args:
            batch: the arguments of the programs.
            count: particles of each datum.
            detached: cut the gradient through each draw, where it is made.
            tiled: run the guide on the tiled batch in any case.
        """
        return self.weigh(batch, self.propose(batch, count, detached=detached, tiled=tiled))

    def propose(
        self,
        batch: _Batch,
        count: int,
        *,
        at: Proposal | None = None,
        detached: bool = False,
        tiled: bool = False,
    ) -> Proposal:
        """Draw from the guide.

        Args:
            batch: the arguments of the programs.
            count: particles of each datum.
            at: take the values of this proposal, instead of drawing.
            detached: cut the gradient through each draw, where it is made.
            tiled: run the guide on the tiled batch in any case.
        """
        guide = self.guide if at is None else poutine.replay(self.guide, trace=trace_of(at.values))
        depth = self.depth if at is None else at.depth
        # Around the trace, which is to hold the values that the program goes on with.
        with _Cut() if detached else nullcontext():
            if tiled or not depth:
                return Proposal(_on_tiles(guide, batch, count), count, 0)
            with pyro.plate(_PLATE, count, dim=-depth - 1):
                return Proposal(poutine.trace(guide).get_trace(*batch), count, depth)

    def weigh(self, batch: _Batch, proposal: Proposal) -> Draw:
        """Run the model at the values of a proposal."""
        values = {n: self.as_rows(proposal, n, value) for n, value in proposal.values.items()}
        at_values = poutine.replay(self.model, trace=trace_of(values))
        trace = _on_tiles(at_values, batch, proposal.count)
        found = log_probs(trace, self.plate, scaled=self.scaled)
        log_p = Terms({n: v.reshape(proposal.count, -1) for n, v in found.local.items()},
                      found.shared)  # fmt: skip
        return Draw(proposal, trace, log_p, self.log_q(proposal), self)

    def score(self, proposal: Proposal) -> Tensor:
        """As of a `Draw`."""
        found = {
            name: self._by_particle(site, site["fn"].log_prob(site["value"]), proposal)
            for name, site in proposal.sites.items()
            if not site["fn"].has_rsample and self.plate.frame(site) is not None
        }
        return total(found)

    def log_q(self, proposal: Proposal) -> Terms:
        """The log-probabilities of a proposal by site."""
        found = Terms({}, {})
        for name, site in proposal.sites.items():
            log_prob = site_log_prob(site, self.plate, scaled=self.scaled)
            if self.plate.frame(site) is None:
                found.shared[name] = log_prob.sum()
            else:
                found.local[name] = self._by_particle(site, log_prob, proposal)
        return found

    def spread(self, proposal: Proposal, name: str, weights: Tensor) -> Tensor:
        """Weights of shape (particles, rows) in a shape that multiplies the values of a site."""
        site = proposal.sites[name]
        frame = self.plate.frame(site)
        assert frame is not None
        assert frame.dim is not None
        after = (1,) * (-frame.dim - 1 + len(site["fn"].event_shape))
        if not proposal.depth:
            return weights.reshape(-1, *after)
        between = (1,) * (proposal.depth + frame.dim)
        return weights.reshape(proposal.count, *between, weights.shape[1], *after)

    def _by_particle(self, site: Site, log_prob: Tensor, proposal: Proposal) -> Tensor:
        """Log-probabilities of a local site, summed but for particles and rows."""
        frame = self.plate.frame(site)
        assert frame is not None
        assert frame.dim is not None
        if not proposal.depth:
            return by_row(log_prob, site, self.plate).reshape(proposal.count, -1)
        inner = (1,) * (-frame.dim - 1)
        outer = (1,) * (log_prob.dim() - 1 + frame.dim)
        shape = (proposal.count, *outer, frame.size, *inner)
        log_prob = log_prob.expand(torch.broadcast_shapes(log_prob.shape, shape))
        by_both = log_prob.movedim(frame.dim, 1)
        return by_both.reshape(proposal.count, frame.size, -1).sum(-1)

    def as_rows(self, proposal: Proposal, name: str, value: Tensor) -> Tensor:
        """A site's value as it is for a tiled batch."""
        site = proposal.sites[name]
        frame = self.plate.frame(site)
        if not proposal.depth or frame is None:
            return value
        assert frame.dim is not None
        events = len(site["fn"].event_shape)
        # Particles come first; put before the data they become one dimension with them.
        before = frame.dim - events - 1
        value = value.movedim(0, before).flatten(before, before + 1)
        frames = [f for f in site["cond_indep_stack"] if f.vectorized and f.name != _PLATE]
        own = max(-f.dim for f in frames)  # a plate of size 1 is the user's
        while value.dim() > events + own and value.shape[0] == 1:
            value = value[0]
        return value


def _on_tiles(program: Callable[..., object], batch: _Batch, count: int) -> poutine.Trace:
    with Overfull():
        return poutine.trace(program).get_trace(*tiled_arguments(batch, count))


def total(by_site: Mapping[str, Tensor]) -> Tensor:
    """The sum over sites; 0 of none."""
    return sum(by_site.values(), start=torch.zeros(()))


def trace_of(values: Mapping[str, Tensor]) -> poutine.Trace:
    """A trace in which sites have these values."""
    trace = poutine.Trace()
    for name, value in values.items():
        trace.add_node(name, type="sample", name=name, value=value, is_observed=False, infer={})
    return trace


class _Cut(Messenger):
    """Cuts the gradient through each draw, so that later sites do not see it either."""

    def _pyro_post_sample(self, msg: Message[Any, Any]) -> None:
        if isinstance(msg["value"], Tensor) and not msg["is_observed"]:
            msg["value"] = msg["value"].detach()
