"""Every datum against the support of its distribution, where steps are replayed unvalidated."""

from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pvae.checking.finding import Finding, PairError
from pvae.pair.distributions import distribution_name, elementwise_support, not_validated
from pvae.pair.traces import observed_sites

__all__ = ["Supports"]


class Supports:
    """The supports of observed sites whose value is an argument of the programs as it is.

    Replayed steps run without Pyro's validation. Batches shown here are compared with the supports
    on their device; nothing is read from there before `refuse`.

    Args:
        trace: of the model on a batch.
        batch: that batch.
    """

    def __init__(self, trace: poutine.Trace, batch: tuple[Tensor, ...]) -> None:
        self._known: list[tuple[str, int, str, Any]] = []
        self._outside: list[Tensor] = []
        for name, site in observed_sites(trace).items():
            support = elementwise_support(site["fn"])
            if support is None or not _same_for_all(support) or not_validated(site["fn"]):
                continue
            value = site["value"]
            for index, part in enumerate(batch):
                if part.data_ptr() == value.data_ptr() and part.shape == value.shape:
                    self._known.append((name, index, distribution_name(site["fn"]), support))

    def see(self, batch: tuple[Tensor, ...]) -> None:
        """Compare a batch."""
        wrong = [~support.check(batch[index]).all() for _, index, _, support in self._known]
        if wrong:
            self._outside.append(torch.stack(wrong))

    def refuse(self) -> None:
        """Raise what was found in the batches seen since the last call; reads the device.

        Raises:
            PairError: data outside the support of their distribution.
        """
        seen, self._outside = self._outside, []
        if not seen:
            return
        found = torch.stack(seen).cpu()
        findings = [
            Finding(
                "error",
                f"site {name!r} observes values outside the support of {kind} ({support}) in batch "
                f"{int(column.nonzero()[0])} of the epoch, counted from 0: transform the data, or "
                "use a distribution that fits them",
            )
            for (name, _, kind, support), column in zip(self._known, found.T, strict=True)
            if column.any()
        ]
        if findings:
            raise PairError(findings)


def _same_for_all(support: object) -> bool:
    """Whether a support does not depend on the datum."""
    values = vars(support).values()
    return all(value.numel() == 1 for value in values if isinstance(value, Tensor))
