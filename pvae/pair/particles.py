"""Particles: several draws from the guide for each datum, with their log-probabilities."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from torch import Tensor

from pvae.pair.distributions import is_delta, unmasked
from pvae.pair.enumeration import SummedOut, enumerated, log_probs_summed_out
from pvae.pair.log_prob import Terms, log_probs, site_log_prob, sum_to_rows
from pvae.pair.plate import DataPlate
from pvae.pair.tiling import Oversized, tiled_arguments
from pvae.pair.traces import Site, guide_trace_of, sample_sites

__all__ = ["Draw", "Particles", "Proposal", "total", "trace_of"]

_Batch = tuple[Any, ...]
_PLATE = "particles of the data"


@dataclass(frozen=True)
class Proposal:
    """Draws from the guide: its trace, and the layout of its values.

    Attributes:
        trace: of the guide.
        count: particles per datum.
        depth: the plate of particles is at dimension -depth - 1; 0 if particles are additional rows
            of a tiled batch.
        values: keyed by site, the values at which the model is run (default: those of the trace).
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

    @property
    def point_masses(self) -> list[str]:
        """Names of the guide's sites that are functions of its other draws, or parameters."""
        return [name for name, site in self.sites.items() if is_delta(site["fn"])]


@dataclass(frozen=True)
class Draw:
    """Particles with their log-probabilities.

    Attributes:
        proposal: the draws from the guide.
        model: the trace of the model at the proposed values, on the tiled batch.
        log_p: log p of the model, keyed by site; local terms have shape (particles, rows), global
            ones ().
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
        """log q of the local sites that are not reparameterized, shape (particles, rows), in nats.

        Scales and masks do not apply.
        """
        return self.particles.score(self.proposal)

    @property
    def global_terms(self) -> Tensor:
        """log p - log q of the global sites, one draw for all particles; shape (), in nats."""
        return total(self.log_p.global_) - total(self.log_q.global_)


class Particles:
    """Draws particles from a pair.

    The model receives them as additional rows of its batch, which any program with a data plate
    accepts. A guide that broadcasts over one more dimension runs once for all of them.

    Args:
        model: p(x, z).
        guide: q(z | x).
        plate: the data plate, vectorized.
        depth: of the plate of particles in the guide, as in `Proposal`; see `vectorized_particles`.
        scaled: multiply log-probabilities by scales, as `site_log_prob` does.
        powers: of the model's and of the guide's sites, by name: a scale that a program computes
            from the number of rows, such as N / len(x), is on a tiled batch K to the power of this
            times what it is on the batch.
        summed_out: sites of the model alone that are summed out, or None.
    """

    def __init__(
        self,
        model: Callable[..., object],
        guide: Callable[..., object],
        plate: DataPlate,
        *,
        depth: int = 0,
        scaled: bool = False,
        powers: tuple[Mapping[str, int], Mapping[str, int]] = ({}, {}),
        summed_out: SummedOut | None = None,
    ) -> None:
        self.model, self.guide, self.plate = model, guide, plate
        self.depth, self.scaled, self.powers = depth, scaled, powers
        self.summed_out = summed_out

    def draw(
        self, batch: _Batch, count: int, *, detached: bool = False, tiled: bool = False
    ) -> Draw:
        """Draw from the guide, and run the model at the draws.

        Args:
            batch: the arguments of the programs.
            count: particles of each datum.
            detached: detach each draw, also for the sites after it.
            tiled: run the guide on the tiled batch even if it could run once.
        """
        return self.evaluate(batch, self.propose(batch, count, detached=detached, tiled=tiled))

    def propose(
        self,
        batch: _Batch,
        count: int,
        *,
        at: Proposal | None = None,
        detached: bool = False,
        tiled: bool = False,
        handler: AbstractContextManager[object] | None = None,
    ) -> Proposal:
        """Draw from the guide.

        Args:
            batch: the arguments of the programs.
            count: particles of each datum.
            at: take the values of this proposal instead of drawing; point masses are computed.
            detached: detach each draw, also for the sites after it.
            tiled: run the guide on the tiled batch even if it could run once.
            handler: around the trace, which records the values that the program continues with.
        """
        guide, depth = self.guide, self.depth
        if at is not None:
            drawn = {n: v for n, v in at.values.items() if n not in at.point_masses}
            guide, depth = poutine.replay(guide, trace=trace_of(drawn)), at.depth
        if handler is None:
            handler = _Detach() if detached else nullcontext()
        with handler:
            traced = guide_trace_of if at is None else _trace
            if tiled or not depth:
                with Oversized():
                    trace = traced(guide, *tiled_arguments(batch, count))
                _rescale(trace, self.powers[1], count)
                return Proposal(trace, count, 0)
            with pyro.plate(_PLATE, count, dim=-depth - 1):
                return Proposal(traced(guide, *batch), count, depth)

    def evaluate(self, batch: _Batch, proposal: Proposal) -> Draw:
        """Run the model at the values of a proposal."""
        values = {n: self.as_rows(proposal, n, value) for n, value in proposal.values.items()}
        model = self.model
        if self.summed_out is not None:
            model = enumerated(model, self.summed_out)
        at_values = poutine.replay(model, trace=trace_of(values))
        with Oversized():
            trace = _trace(at_values, *tiled_arguments(batch, proposal.count))
        _rescale(trace, self.powers[0], proposal.count)
        if self.summed_out is None:
            found = log_probs(trace, self.plate, scaled=self.scaled)
        else:
            found = log_probs_summed_out(
                trace, self.plate, self.summed_out.names, scaled=self.scaled
            )
        log_p = Terms({n: v.reshape(proposal.count, -1) for n, v in found.local.items()},
                      found.global_)  # fmt: skip
        return Draw(proposal, trace, log_p, self.log_q(proposal), self)

    def score(self, proposal: Proposal) -> Tensor:
        """log q of the local sites that are not reparameterized; see `Draw.score`."""
        found = {
            name: self._by_particle(site, unmasked(site["fn"]).log_prob(site["value"]), proposal)
            for name, site in proposal.sites.items()
            if not site["fn"].has_rsample and self.plate.frame(site) is not None
        }
        return total(found)

    def log_q(self, proposal: Proposal, names: Iterable[str] | None = None) -> Terms:
        """The log-probabilities of a proposal by site (default: of all sites)."""
        found = Terms({}, {})
        sites = proposal.sites
        for name in sites if names is None else names:
            site = sites[name]
            log_prob = site_log_prob(site, self.plate, scaled=self.scaled)
            if self.plate.frame(site) is None:
                found.global_[name] = log_prob.sum()
            else:
                found.local[name] = self._by_particle(site, log_prob, proposal)
        return found

    def spread(self, proposal: Proposal, name: str, weights: Tensor) -> Tensor:
        """Reshape weights of shape (particles, rows) to broadcast against the values of a site."""
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
        """Sum log-probabilities of a local site to shape (particles, rows)."""
        frame = self.plate.frame(site)
        assert frame is not None
        assert frame.dim is not None
        if not proposal.depth:
            return sum_to_rows(log_prob, site, self.plate).reshape(proposal.count, -1)
        inner = (1,) * (-frame.dim - 1)
        outer = (1,) * (log_prob.dim() - 1 + frame.dim)
        shape = (proposal.count, *outer, frame.size, *inner)
        log_prob = log_prob.expand(torch.broadcast_shapes(log_prob.shape, shape))
        by_both = log_prob.movedim(frame.dim, 1)
        return by_both.reshape(proposal.count, frame.size, -1).sum(-1)

    def as_rows(self, proposal: Proposal, name: str, value: Tensor) -> Tensor:
        """A site's value in the layout of a tiled batch."""
        site = proposal.sites[name]
        frame = self.plate.frame(site)
        if not proposal.depth or frame is None:
            return value
        assert frame.dim is not None
        events = len(site["fn"].event_shape)
        # Particles come first; moved next to the rows, they merge with them into one dimension.
        before = frame.dim - events - 1
        value = value.movedim(0, before).flatten(before, before + 1)
        frames = [f for f in site["cond_indep_stack"] if f.vectorized and f.name != _PLATE]
        own = max(-f.dim for f in frames)  # a plate of size 1 is the user's
        while value.dim() > events + own and value.shape[0] == 1:
            value = value[0]
        return value


def _rescale(trace: poutine.Trace, powers: Mapping[str, int], count: int) -> None:
    """Restore the scales that a program computed from the rows of a tiled batch."""
    for name, power in powers.items():
        if name in trace.nodes:
            trace.nodes[name]["scale"] = trace.nodes[name]["scale"] * float(count) ** -power


def _trace(program: Callable[..., object], *batch: Any) -> poutine.Trace:
    return poutine.trace(program).get_trace(*batch)


def total(by_site: Mapping[str, Tensor]) -> Tensor:
    """The sum over sites; 0 if there are none."""
    return sum(by_site.values(), start=torch.zeros(()))


def trace_of(values: Mapping[str, Tensor]) -> poutine.Trace:
    """A trace with these values, to replay against."""
    trace = poutine.Trace()
    for name, value in values.items():
        trace.add_node(name, type="sample", name=name, value=value, is_observed=False, infer={})
    return trace


class _Detach(Messenger):
    """Detaches each draw, so that later sites receive no gradient through it either."""

    def _pyro_post_sample(self, msg: Message[Any, Any]) -> None:
        if isinstance(msg["value"], Tensor) and not msg["is_observed"]:
            msg["value"] = msg["value"].detach()
