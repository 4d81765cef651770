"""Do data and draws lie in the support of their distribution?"""

from collections.abc import Iterator
from typing import Any, Literal

import torch
from pyro import poutine
from torch import Tensor

from pvae.checking.inspection import Inspection
from pvae.checking.report import Finding, PairError
from pvae.pair.distributions import distribution_name, elementwise_support, is_unvalidated
from pvae.pair.locations import Location
from pvae.pair.preserve import seeded
from pvae.pair.traces import Site, latent_sites, observed_sites

__all__ = ["Supports", "data_outside_support", "guide_outside_prior"]

_FOR_GREY = (
    'binarize them (binarize="dynamic", "static" or "threshold"), or use a likelihood that fits '
    "grey levels: continuous_bernoulli, discretized_logistic, categorical or gaussian"
)
_FOR_OTHER = (
    "counts fit a Poisson or a NegativeBinomial, real numbers a gaussian likelihood; divide grey "
    "levels by their largest value"
)


def data_outside_support(inspection: Inspection) -> Iterator[Finding]:
    """Observed values outside the support or shape of their distribution."""
    for name, site in observed_sites(inspection.model).items():
        location = inspection.location("model", name)
        value = site["value"]
        wrong = _wrong_shape(location, name, site, value) or _outside(location, name, site, value)
        if wrong is not None:
            yield wrong


def _wrong_shape(location: Location | None, name: str, site: Site, value: Tensor) -> Finding | None:
    expected = site["fn"].shape()
    try:
        fits = torch.broadcast_shapes(expected, value.shape) == expected
    except RuntimeError:
        fits = False
    if fits or site["infer"].get("enumerate"):
        return None
    fn = site["fn"]
    batch, event = tuple(fn.batch_shape), tuple(fn.event_shape)
    return Finding.at(
        location,
        "error",
        f"site {name!r} observes data of shape {tuple(value.shape)}, but its distribution "
        f"{distribution_name(fn)} has shape {tuple(expected)} (batch {batch}, event {event}): make "
        "the network return the data's shape, or flatten the data in both programs",
    )


def _outside(location: Location | None, name: str, site: Site, value: Tensor) -> Finding | None:
    support = elementwise_support(site["fn"])
    if support is None:
        return None
    inside = support.check(value)
    if inside.all():
        return None
    kind = distribution_name(site["fn"])
    wrong = value[~inside].flatten()[0].item() if inside.shape == value.shape else None
    example = f", such as {wrong:.4g}" if wrong is not None else ""
    low, high = value.min().item(), value.max().item()
    advice = "transform the data, or use a distribution that fits them"
    if kind.endswith("Bernoulli"):
        advice = _FOR_GREY if low >= 0 and high <= 1 else _FOR_OTHER
    meant = is_unvalidated(site["fn"])
    said = "; it was made with validate_args=False, so this may be intended" if meant else ""
    return Finding.at(
        location,
        "warning" if meant else "error",
        f"site {name!r} observes values outside the support of {kind}{example} (the data range "
        "from "
        f"{low:.4g} to {high:.4g}): {advice}{said}",
    )


_DRAWS = 32
_NEVER = 2**31 - 1


def guide_outside_prior(inspection: Inspection) -> Iterator[Finding]:
    """Guides that propose values outside the prior's support, or mix discrete with continuous."""
    proposed = inspection.sites("guide")
    for name, site in latent_sites(inspection.model).items():
        if name not in proposed:
            continue
        fn, prior = proposed[name]["fn"], site["fn"]
        kinds = f"{distribution_name(fn)} in the guide, {distribution_name(prior)} in the model"
        try:
            own, support = fn.support, prior.support
            with seeded(0), torch.no_grad():
                draw = fn.rsample if fn.has_rsample else fn.sample
                draws = draw((_DRAWS,))
                inside = support.check(draws)
        except (NotImplementedError, RuntimeError, ValueError):
            continue
        if distribution_name(fn) == "Delta" and inside.all():
            continue  # a point mass inside the support
        severity: Literal["error", "warning"] = "error"
        if own.is_discrete != support.is_discrete:
            # Straight-through draws are discrete, although their density is not.
            severity = "warning" if support.is_discrete and inside.all() else "error"
            discrete = "guide" if own.is_discrete else "model"
            message = (
                f"latent site {name!r} is discrete in the {discrete} only ({kinds}), so a "
                "probability would be compared with a density: use distributions of one kind"
            )
        elif not inside.all():
            share = 1 - inside.double().mean().item()
            message = (
                f"the guide proposes values of {name!r} outside the prior's support ({kinds}; "
                f"{share:.0%} of draws), where log p is minus infinity or undefined: use a "
                "distribution with the prior's support, such as LogNormal or Gamma for positive "
                "values, or transform a Normal"
            )
        else:
            continue
        yield Finding.at(inspection.location("guide", name), severity, message)


class Supports:
    """The supports of observed sites whose value is an unmodified argument of the programs.

    Replayed steps run without Pyro's validation. `see` compares batches with the supports on their
    device; nothing is read from the device before `raise_errors`.

    Args:
        trace: trace of the model on a batch.
        batch: that batch.
    """

    def __init__(self, trace: poutine.Trace, batch: tuple[Tensor, ...]) -> None:
        self._known: list[tuple[str, int, str, Any]] = []
        self._batches = 0
        self._first: Tensor | None = None  # for each site the first batch with an error
        for name, site in observed_sites(trace).items():
            support = elementwise_support(site["fn"])
            if support is None or not _same_for_all(support) or is_unvalidated(site["fn"]):
                continue
            value = site["value"]
            for index, part in enumerate(batch):
                if part.data_ptr() == value.data_ptr() and part.shape == value.shape:
                    self._known.append((name, index, distribution_name(site["fn"]), support))

    def see(self, batch: tuple[Tensor, ...]) -> None:
        """Compare a batch."""
        wrong = [~support.check(batch[index]).all() for _, index, _, support in self._known]
        if wrong:
            here = torch.where(torch.stack(wrong), self._batches, _NEVER)
            self._first = here if self._first is None else self._first.minimum(here)
        self._batches += 1

    def raise_errors(self) -> None:
        """Raise an error for batches seen since the last call; reads the device.

        Raises:
            PairError: if data are outside the support of their distribution.
        """
        first, self._first, self._batches = self._first, None, 0
        if first is None:
            return
        findings = [
            Finding(
                "error",
                f"site {name!r} observes values outside the support of {kind} ({support}) in batch "
                f"{batch} of the epoch, counted from 0: transform the data, or "
                "use a distribution that fits them",
            )
            for (name, _, kind, support), batch in zip(self._known, first.tolist(), strict=True)
            if batch != _NEVER
        ]
        if findings:
            raise PairError(findings)


def _same_for_all(support: object) -> bool:
    """Whether a support does not depend on the datum."""
    values = vars(support).values()
    return all(value.numel() == 1 for value in values if isinstance(value, Tensor))
