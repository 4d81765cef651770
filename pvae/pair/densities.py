"""The start density and p(x, z), as functions of unconstrained latents."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import Transform, biject_to, constraints

from pvae.pair.hmc import Latents
from pvae.pair.log_prob import log_probs
from pvae.pair.plate import DataPlate
from pvae.pair.tiling import tiled
from pvae.pair.traces import Site, latent_sites, paired_traces, sample_sites

__all__ = ["Densities"]


class Densities:
    """The start density and p(x, z) of several rows, for many chains per row.

    Chains are rows of one batch: chain k of row r is row k * rows + r. Latents with a constrained
    support are mapped to the reals, and both densities include the Jacobian of the map.

    Args:
        model: p(x, z), as `pvae.evaluation.chains` asks for.
        guide: q(z | x), the start density; the prior p(z) if None.
        batch: the arguments of the programs, each of shape (rows, ...).
        count: chains of each row.
        plate: the data plate.

    Attributes:
        draws: latents drawn from the start density, keyed by site, shape (chains, dim).

    Raises:
        ValueError: if the guide draws values outside the support of the model's site.
    """

    def __init__(
        self,
        model: Callable[..., object],
        guide: Callable[..., object] | None,
        batch: tuple[Tensor, ...],
        count: int,
        plate: DataPlate,
    ) -> None:
        self._model, self._guide, self._plate = model, guide, plate
        self._rows, self._count = len(batch[0]), count
        self._batch = tiled(batch, count)
        with torch.no_grad():
            trace, source = self._traces()
            self._coordinates = {
                name: _coordinates(site, plate) for name, site in latent_sites(trace).items()
            }
            proposed = dict(sample_sites(source))
            drawn: dict[str, Tensor] = {n: proposed[n]["value"] for n in self._coordinates}
            for name, site in latent_sites(trace).items():
                if not site["fn"].support.check(drawn[name]).all():
                    raise ValueError(
                        f"guide draws values at site {name!r} that are outside the model's support "
                        f"{site['fn'].support}: give the guide's site the same support"
                    )
            self.draws = self._unconstrained(drawn)
        # A single site depends on no other one, so the guide's distribution is computed once.
        alone = guide is not None and len(list(sample_sites(source))) == 1
        self._kept = source if alone else None

    def __call__(self, z: Latents) -> tuple[Tensor, Tensor]:
        """log f_0 and log p(x, z) at unconstrained latents, each (chains,), float64, in nats."""
        values, jacobian = self._constrained(z)
        joint = log_probs(self._trace_at(self._model, values), self._plate)
        if self._guide is None:
            start = _total([joint.local[name] for name in self._coordinates])
        else:
            proposal = log_probs(self._guide_at(values), self._plate)
            start = _total(list(proposal.local.values()))
        return start + jacobian, _total(list(joint.local.values())) + jacobian

    def at(self, values: Mapping[str, Tensor], first: int) -> Latents:
        """Unconstrained latents of all chains, each at its row's value.

        Args:
            values: keyed by site, in the layout of the model, for all rows of the data.
            first: index of the first row here.
        """
        parts = {}
        for name, where in self._coordinates.items():
            part = values[name].narrow(where.dim, first, self._rows)
            parts[name] = torch.cat([part] * self._count, where.dim)
        return self._unconstrained(parts)

    def _traces(self) -> tuple[poutine.Trace, poutine.Trace]:
        if self._guide is not None:
            return paired_traces(self._model, self._guide, self._batch)
        trace = poutine.trace(self._model).get_trace(*self._batch)
        return trace, trace

    def _trace_at(self, program: Callable[..., object], values: dict[str, Tensor]) -> poutine.Trace:
        return poutine.trace(poutine.condition(program, values)).get_trace(*self._batch)

    def _guide_at(self, values: dict[str, Tensor]) -> poutine.Trace:
        assert self._guide is not None
        if self._kept is None:
            return self._trace_at(self._guide, values)
        trace = poutine.Trace()
        for name, site in sample_sites(self._kept):
            trace.add_node(name, **{**site, "name": name, "value": values[name]})
        return trace

    def _unconstrained(self, values: Mapping[str, Tensor]) -> Latents:
        z = {}
        for name, where in self._coordinates.items():
            value = values[name] if where.transform is None else where.transform.inv(values[name])
            z[name] = value.movedim(where.dim, 0).flatten(1) if value.dim() > 1 else value[:, None]
        return z

    def _constrained(self, z: Latents) -> tuple[dict[str, Tensor], Tensor | float]:
        """Values in the layout of the model, and the log-determinant, shape (chains,)."""
        values: dict[str, Tensor] = {}
        jacobian: Tensor | float = 0.0
        for name, where in self._coordinates.items():
            free = z[name].reshape(where.shape).movedim(0, where.dim)
            if where.transform is None:
                values[name] = free
                continue
            values[name] = where.transform(free)
            log_det = where.transform.log_abs_det_jacobian(free, values[name])
            by_chain = log_det.movedim(where.dim, 0).reshape(len(z[name]), -1)
            jacobian = jacobian + by_chain.double().sum(1)
        return values, jacobian


class _Coordinates(NamedTuple):
    """The layout of a site's values: the map from the reals, the dim of the data plate, the shape.

    `shape` is that of unconstrained values, with the data plate first.
    """

    transform: Transform | None
    dim: int
    shape: torch.Size


def _coordinates(site: Site, plate: DataPlate) -> _Coordinates:
    fn, value = site["fn"], site["value"]
    frame = plate.frame(site)
    assert frame is not None
    assert frame.dim is not None
    dim = value.dim() - fn.event_dim + frame.dim
    innermost = fn.support
    while hasattr(innermost, "base_constraint"):
        innermost = innermost.base_constraint
    transform = None if innermost is constraints.real else biject_to(fn.support)
    free = value if transform is None else transform.inv(value)
    return _Coordinates(transform, dim, free.movedim(dim, 0).shape)


def _total(terms: list[Tensor]) -> Tensor:
    # In double precision: weights are differences of these sums at neighbouring temperatures.
    return torch.stack(terms).double().sum(0)
