"""The evaluation context: a pair and its data, examined once for any number of measures."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pyro
import torch
from pyro import poutine
from pyro.poutine.indep_messenger import CondIndepStackFrame
from torch import Tensor

from pvae.data import Rows
from pvae.evaluation.estimate import UndefinedQuantityError
from pvae.evaluation.memory import allowed_bytes, peak_bytes
from pvae.pair.enumeration import (
    SummedOut,
    enumerated,
    marked_sites,
    model_only_sites,
    plate_depth,
)
from pvae.pair.guide_density import GuideDensity, guide_density
from pvae.pair.independence import dependent_sites
from pvae.pair.log_prob import Terms, log_weight_terms, site_log_prob, sum_to_rows
from pvae.pair.missing import filled, marginalized
from pvae.pair.pair import pair_of, rows_on_device
from pvae.pair.particles import Draw, Particles
from pvae.pair.plate import DataPlate, find_data_plate, to_rows
from pvae.pair.preserve import evaluation_mode, preserve_generators, seeded
from pvae.pair.tiling import tiled
from pvae.pair.traces import (
    PROGRAM_ERRORS,
    Site,
    latent_sites,
    paired_traces,
    sample_sites,
)

__all__ = [
    "EvaluationContext",
    "context_of",
    "log_weight_terms_of",
    "parts",
    "tiled_terms",
]

_Program = Callable[..., object]


class EvaluationContext:
    """A pair and its data, with what evaluation has to know of them, found once.

    Every function of `pvae.evaluation` makes one from its `data`, and also accepts one as `data`:
    then several measures of a pair on the same data share it. The class is long, since whatever
    measures may require of a pair is stated here, with the reason for a refusal.

    Args:
        model: p(x, z), called with one batch.
        guide: q(z | x), called with the same; None if it is not used.
        data: a tensor of shape (N, ...), a tuple of such, or a split of a data set.
        independent: whether the rows of a batch are known not to depend on each other.
        missing: what is missing of x, as in `data.Rows`: the bound is then that of the seen cells.

    Attributes:
        source: the data, on the device of the pair.
        plate: the data plate, or None.
        model_trace: trace of the model on the first rows, replayed against `guide_trace`.
        guide_trace: trace of the guide on the first rows; empty without a guide.

    Raises:
        UndefinedQuantityError: if the pair does not run on a few rows, or rows of a batch depend on
            each other.

    Example:
        >>> import pvae, pyro
        >>> import pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))
        >>> context = pvae.evaluation.EvaluationContext(model, guide, torch.zeros(10))
        >>> bound = pvae.elbo(model, guide, context)
        >>> likelihood = pvae.log_likelihood(model, guide, context, num_particles=10)
        >>> context.plate.name, context.latent_sites
        ('data', ('z',))
    """

    def __init__(
        self,
        model: _Program,
        guide: _Program | None,
        data: object,
        *,
        independent: bool = False,
        missing: Tensor | str | None = None,
    ) -> None:
        self.model, self.guide = model, guide
        self._programs = (model,) if guide is None else (model, guide)
        self.source: Rows = rows_on_device(data, *self._programs, missing=missing)
        self._limits: dict[str, int] = {}
        self._density: GuideDensity | None = None
        pair = pair_of(*self._programs)
        if self.source.missing is not None and not (pair is not None and pair.missing):
            self.model = marginalized(model)
            self.guide = None if guide is None else filled(guide)
        with preserve_generators(), torch.no_grad(), evaluation_mode(*self._programs):
            head = self.source.first(2)
            try:
                # Validation errors are left to the measures, which say more about them.
                with pyro.validation_enabled(False):
                    self.plate: DataPlate | None = find_data_plate(self.traces, head)
                    self.model_trace, self.guide_trace = self.traces(head)
                    log_weight_terms(self.model_trace, self.guide_trace, self.plate)
            except PROGRAM_ERRORS as error:
                raise UndefinedQuantityError(
                    f"the pair does not run on {len(head[0])} rows of the data ({error}), so a "
                    "datum cannot be evaluated by itself; a guide with one row of parameters per "
                    "datum, such as an autoguide over local sites, is trained on all data at once "
                    "and has no bound but its objective"
                ) from error
            if not independent:
                self._require_independent_rows()

    def on(self, data: object) -> "EvaluationContext":
        """The same pair on other data of the same shape, without another examination."""
        other = copy.copy(self)
        other.source = rows_on_device(data, *self._programs)
        return other

    def traces(self, batch: tuple[Tensor, ...]) -> tuple[poutine.Trace, poutine.Trace]:
        """Traces of the model, replayed against the guide, and of the guide, on a batch."""
        if self.guide is not None:
            return paired_traces(self.model, self.guide, batch)
        return poutine.trace(self.model).get_trace(*batch), poutine.Trace()

    def _require_independent_rows(self) -> None:
        guide = self.model if self.guide is None else self.guide
        dependent = dependent_sites(self.model, guide, self.plate, self.spread(4))
        if dependent:
            sites = ", ".join(f"{name!r} in the {role}" for role, name in dependent)
            raise UndefinedQuantityError(
                f"the terms of a datum at {sites} depend on other rows of its batch, even in eval "
                "mode, so its particles cannot be weighted; pvae.check names the likely cause"
            )

    def spread(self, count: int) -> tuple[Tensor, ...]:
        """The arguments of the programs for a few rows from all over the data."""
        size = len(self.source)
        return self.source.arguments(torch.linspace(0, size - 1, min(count, size)).long())

    @contextmanager
    def evaluating(self, seed: int) -> Iterator[None]:
        """Seed the generators, switch to eval mode and off gradients; restore all on exit."""
        with seeded(seed), torch.no_grad(), evaluation_mode(*self._programs):
            yield

    # Sites

    @property
    def latent_sites(self) -> tuple[str, ...]:
        """Names of the local latent sites that model and guide share, in the guide's order."""
        prior = latent_sites(self.model_trace)
        return tuple(
            name
            for name, site in latent_sites(self.guide_trace).items()
            if name in prior and self.plate is not None and self.plate.frame(site) is not None
        )

    @property
    def global_sites(self) -> list[str]:
        """Names of the guide's global latent sites, sorted."""
        sites = latent_sites(self.guide_trace).items()
        plate = self.plate
        return sorted(n for n, site in sites if plate is None or plate.frame(site) is None)

    @property
    def density(self) -> GuideDensity:
        """Which sites of the guide are point masses or auxiliary.

        Raises:
            UndefinedQuantityError: if sites are computed from auxiliary ones of other dimensions.
        """
        if self._density is None:
            assert self.guide is not None
            with preserve_generators(), torch.no_grad(), evaluation_mode(*self._programs):
                head = self.source.first(2)
                with pyro.validation_enabled(False):
                    traces = self.model_trace, self.guide_trace
                    self._density = guide_density(*traces, self.guide, head)
        found = self._density
        if not found.counted:
            raise UndefinedQuantityError(
                f"the guide computes sites {list(found.transformed)} from auxiliary sites "
                f"{list(found.auxiliary)}, which have another number of dimensions, so q(z | x) is "
                "an unknown integral: give the model a distribution of the auxiliary sites given z"
            )
        return found

    @property
    def partial_plates(self) -> list[str]:
        """Plates apart from the data plate that select some of their elements, with their sizes."""
        of_data = self.plate.names if self.plate is not None else ()
        return sorted(
            {
                f"{frame.name!r} ({frame.size} of {frame.full_size} elements)"
                for _, site in sample_sites(self.model_trace)
                for frame in site["cond_indep_stack"]
                if frame.full_size and frame.full_size != frame.size and frame.name not in of_data
            }
        )

    def require_whole_data(self) -> None:
        """Require that no plate within a datum selects some of its elements.

        Raises:
            UndefinedQuantityError: if one does: a scaled part of log p(x | z) has the right mean,
                but its exponential does not.
        """
        if self.partial_plates:
            raise UndefinedQuantityError(
                f"plates {', '.join(self.partial_plates)} select a part of each datum, and the "
                "exponential of a scaled part of log p(x | z) is no estimate of p(x | z): evaluate "
                "the model with the whole plate; the bound of pvae.elbo has the right mean"
            )

    def require_density(self, *, by_site: bool = False) -> None:
        """Require that q(z | x) has a density.

        Args:
            by_site: whether each site needs one of its own.

        Raises:
            UndefinedQuantityError: if a site of the guide is a point mass, or is computed from an
                auxiliary one.
        """
        found = self.density
        if found.points:
            raise UndefinedQuantityError(
                f"sites {list(found.points)} of the guide are point masses (Delta), so q(z | x) "
                "has no density: pvae.elbo gives log p(x, z) at them, and pvae.ais with "
                'start="prior" estimates log p(x)'
            )
        if by_site and found.transformed:
            raise UndefinedQuantityError(
                f"sites {list(found.transformed)} of the guide are computed from auxiliary sites "
                f"{list(found.auxiliary)}, so their densities are not known one by one"
            )

    @property
    def summed_out(self) -> SummedOut | None:
        """The model's sites that are marked for enumeration and that the guide does not have.

        Raises:
            UndefinedQuantityError: if one of them is global.
        """
        names = marked_sites(self.model_trace, self.guide_trace)
        if not names or self.plate is None:
            return None
        sites = dict(sample_sites(self.model_trace))
        outside = [name for name in names if self.plate.frame(sites[name]) is None]
        if outside:
            raise UndefinedQuantityError(
                f"sites {outside} are summed out and global (outside the data plate "
                f"{self.plate.name!r}), so the evidence is no product over data"
            )
        return SummedOut(tuple(names), plate_depth(self.model_trace))

    @property
    def prior_summed_out(self) -> SummedOut | None:
        """The model's sites that the guide does not have, over which p(z) is a sum.

        Raises:
            UndefinedQuantityError: if there is one that cannot be enumerated, or is global.
        """
        names = model_only_sites(self.model_trace, self.guide_trace)
        if not names:
            return None
        sites, plate = dict(sample_sites(self.model_trace)), self.require_plate()
        wrong = [
            name
            for name in names
            if plate.frame(sites[name]) is None or not sites[name]["fn"].has_enumerate_support
        ]
        if wrong:
            raise UndefinedQuantityError(
                f"the guide has no sites {wrong}, which the model draws, so the density p(z) of "
                "the others is an unknown integral; add them to the guide"
            )
        return SummedOut(tuple(names), plate_depth(self.model_trace))

    def summed_out_traces(
        self, batch: tuple[Tensor, ...], sites: SummedOut
    ) -> tuple[poutine.Trace, poutine.Trace]:
        """Traces as of `traces`, with all values of some of the model's sites."""
        assert self.guide is not None
        return paired_traces(enumerated(self.model, sites), self.guide, batch)

    def require_plate(self, instead: str = "") -> DataPlate:
        """The data plate, vectorized and not subsampling.

        Args:
            instead: what to do without one, for the message.

        Raises:
            UndefinedQuantityError: if there is no such plate.
        """
        plate = self.plate
        if plate is None:
            what = "no plate of the batch's size encloses the observed sites"
        elif not plate.vectorized:
            what = f"the data plate {plate.name!r} is a loop over the data"
        elif plate.subsamples:
            what = f"the data plate {plate.name!r} subsamples the batch itself"
        else:
            return plate
        raise UndefinedQuantityError(
            f"{what}: each datum needs its own row of a vectorized plate of size len(batch), `with "
            f'pyro.plate("data", len(x))`, to be evaluated by itself{instead and f"; or {instead}"}'
        )

    def require_latent_sites(self, *, allow_global: bool = False) -> tuple[str, ...]:
        """The local latent sites of a pair with a vectorized data plate.

        Args:
            allow_global: whether the guide may have global sites beside them.

        Raises:
            UndefinedQuantityError: if there is no such plate or site, or there are global sites.
        """
        plate = self.require_plate()
        if self.global_sites and not allow_global:
            raise UndefinedQuantityError(
                f"sites {self.global_sites} are global (outside the data plate {plate.name!r}), so "
                "this measure of each datum's posterior is not defined; make them parameters"
            )
        if not self.latent_sites:
            proposed, prior = latent_sites(self.guide_trace), latent_sites(self.model_trace)
            raise UndefinedQuantityError(
                f"guide and model share no latent site in the data plate {plate.name!r}: the guide "
                f"samples {sorted(proposed)}, the model {sorted(prior)}"
            )
        return self.latent_sites

    def frame(self, site: Site) -> CondIndepStackFrame:
        """The data plate's frame at a local site."""
        frame = None if self.plate is None else self.plate.frame(site)
        assert frame is not None
        return frame

    def values(self, trace: poutine.Trace) -> dict[str, Tensor]:
        """The values of the local latent sites in a trace, each of shape (rows, ...)."""
        sites = dict(sample_sites(trace))
        return {
            name: to_rows(
                sites[name]["value"], self.frame(sites[name]), len(sites[name]["fn"].event_shape)
            )
            for name in self.latent_sites
        }

    def log_probs(self, trace: poutine.Trace) -> dict[str, Tensor]:
        """Log-probabilities of the local latent sites in a trace, each (rows,), in nats."""
        names, plate = self.latent_sites, self.require_plate()
        return {
            name: sum_to_rows(site_log_prob(site, plate), site, plate)
            for name, site in sample_sites(trace)
            if name in names
        }

    # Memory

    def rows_per_call(
        self,
        run: Callable[[tuple[Tensor, ...], int], object],
        max_bytes: int | None = None,
        *,
        name: str = "",
    ) -> int:
        """How many rows, counted once per particle, fit into memory at once.

        Args:
            run: called with a batch of one row and a number of particles, and measured.
            max_bytes: that the tensors of one run may take (default: what is fast on the device).
            name: remembers the result for further calls without `max_bytes`; "" does not.
        """
        plate = self.plate
        if plate is None or not plate.vectorized:
            return 1  # rows may depend on each other: one at a time is always right
        if name and max_bytes is None and name in self._limits:
            return self._limits[name]
        sized = plate.full_size if plate.full_size != plate.rows else None
        head = self.source.first(1)
        few, many = (2, 6) if sized is None or sized >= 6 else (1, min(2, sized))
        with preserve_generators():
            before, after = (
                peak_bytes(lambda count=count: run(head, count))  # type: ignore[misc]
                for count in (few, many)
            )
        per_row = max(1, (after - before) // max(1, many - few))
        limit = max(1, allowed_bytes(max_bytes, head[0].device) // per_row)
        limit = limit if sized is None else min(limit, sized)
        if name and max_bytes is None:
            self._limits[name] = limit
        return limit

    def rows_per_run(self) -> int:
        """How many rows fit into one run of both programs."""
        return self.rows_per_call(lambda batch, n: tiled_terms(self, batch, n), name="run")


def context_of(
    model: _Program,
    guide: _Program | None,
    data: object,
    *,
    missing: Tensor | str | None = None,
) -> EvaluationContext:
    """The context of a pair and data; `data` itself if it is one."""
    if isinstance(data, EvaluationContext):
        return data
    return EvaluationContext(model, guide, data, missing=missing)


def tiled_terms(context: EvaluationContext, batch: tuple[Tensor, ...], count: int) -> Terms:
    """Terms of the log-weights of `count` particles per row, by running both programs on tiles.

    Returns:
        Local terms of shape (count, rows); without a data plate all terms are of shape (1, 1).

    Raises:
        ValueError: if the data plate subsamples the batch itself.
    """
    assert context.guide is not None
    plate, width = context.plate, len(batch[0])
    summed_out = context.summed_out
    if plate is not None and summed_out is not None:
        particles = Particles(context.model, context.guide, plate, summed_out=summed_out)
        return log_weight_terms_of(context, particles.draw(batch, count))
    traces = paired_traces(context.model, context.guide, tiled(batch, count))
    for name in context.density.noise:
        traces[1].remove_node(name)
    local, global_ = log_weight_terms(*traces, plate)
    if plate is None:
        return Terms({site: value.reshape(1, 1) for site, value in global_.items()}, {})
    for site, value in local.items():
        if len(value) != count * width:
            raise ValueError(
                f"site {site!r} has {len(value)} rows in plate {plate.name!r} for a batch of "
                f"{count * width}: a plate that subsamples the batch itself cannot be evaluated "
                "datum by datum; pass the subsample as the batch"
            )
    return Terms({site: value.reshape(count, width) for site, value in local.items()}, global_)


def log_weight_terms_of(context: EvaluationContext, draw: Draw) -> Terms:
    """The terms of log p(x, z) - log q(z | x) of particles, local ones (particles, rows)."""
    found = Terms({}, {})
    latents = latent_sites(draw.model)
    for table, log_p, log_q in zip(found, draw.log_p, draw.log_q, strict=True):
        for name, value in log_p.items():
            if name not in latents or name in log_q:  # otherwise drawn from the prior: it cancels
                table[name] = value
        for name, value in log_q.items():
            if name not in context.density.noise:
                table[name] = table.get(name, 0.0) - value
    return found


def parts(total: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` rows (at least 1) that cover `total` rows.

    Example:
        >>> list(parts(5, 2))
        [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    for start in range(0, total, max(1, size)):
        yield slice(start, min(start + max(1, size), total))
