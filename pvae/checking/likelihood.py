"""Are the likelihood's parameters plausible before training?"""

import math
from collections.abc import Iterator
from typing import Any, cast

from torch import Tensor

from pvae.checking.dependence import SAME_ELEMENTS
from pvae.checking.inspection import Inspection
from pvae.checking.report import Finding
from pvae.pair.distributions import base_distribution, distribution_name
from pvae.pair.traces import Site, observed_sites

__all__ = ["probabilities_as_logits", "saturated_outputs"]

_IMPOSSIBLE = -10.0  # nats of one element
_SHARE = 0.05
_FAR = 100.0  # scales between a value and its mean


def saturated_outputs(inspection: Inspection) -> Iterator[Finding]:
    """Likelihoods that put almost no probability on the data."""
    for name, site in observed_sites(inspection.model).items():
        fn, value = base_distribution(site["fn"]), site["value"]
        said = ""
        if hasattr(fn, "logits") and hasattr(fn, "probs"):
            share = (fn.log_prob(value) < _IMPOSSIBLE).double().mean().item()
            if share > _SHARE:
                said = (
                    f"gives {share:.0%} of the data a probability below {math.exp(_IMPOSSIBLE):.0e}"
                )
        elif hasattr(fn, "loc") and isinstance(scale := getattr(fn, "scale", None), Tensor):
            share = (((value - fn.loc) / scale).abs() > _FAR).double().mean().item()
            if share > _SHARE:
                said = f"puts {share:.0%} of the data more than {_FAR:.0f} scales from its mean"
        if said:
            yield Finding.at(
                inspection.location("model", name),
                "warning",
                f"the {distribution_name(site['fn'])} at {name!r} is saturated before training: it "
                f"{said}, where gradients vanish or explode. Scale the data to about 1 (divide "
                "grey "
                "levels by 255), or start with smaller weights or a larger scale",
            )


def probabilities_as_logits(inspection: Inspection) -> Iterator[Finding]:
    """Logits that are the output of a sigmoid or softmax."""
    for name, site in observed_sites(inspection.model).items():
        logits = _given_logits(site)
        last = None if logits is None else _last_function(logits)
        if logits is not None and last is not None:
            low, high = logits.min().item(), logits.max().item()
            kind = distribution_name(site["fn"])
            yield Finding.at(
                inspection.location("model", name),
                "warning",
                f"the logits of the {kind} at {name!r} all lie between {low:.2f} and {high:.2f}, "
                f"since they are the output of a {last}, which is applied twice: give probs= "
                "instead, or remove the last activation",
            )


def _last_function(tensor: Tensor) -> str | None:
    """The name of the sigmoid or softmax that a tensor is the output of."""
    step: Any = tensor.grad_fn
    while step is not None:
        name = step.name()
        for function in ("Sigmoid", "Softmax"):
            if name.startswith(function):
                return function.lower()
        if not name.startswith(SAME_ELEMENTS):
            return None
        step = next((function for function, _ in step.next_functions if function is not None), None)
    return None


def _given_logits(site: Site) -> Tensor | None:
    """The logits that the distribution was made with; None if it was given probabilities."""
    fn = base_distribution(site["fn"])
    logits = vars(fn).get("logits")
    given = isinstance(logits, Tensor) and logits is getattr(fn, "_param", None)
    return cast(Tensor, logits) if given else None
