"""Does the guide stay within the prior's support?"""

from collections.abc import Iterator
from typing import Literal

import torch

from pvae.checking.finding import Finding
from pvae.checking.inspection import Subject
from pvae.pair.distributions import distribution_name
from pvae.pair.preserve import seeded
from pvae.pair.traces import latent_sites

__all__ = ["guide_outside_prior"]

_DRAWS = 32


def guide_outside_prior(subject: Subject) -> Iterator[Finding]:
    """Guides that propose what the prior gives no probability, or that mix discrete with real."""
    proposed = subject.sites("guide")
    for name, site in latent_sites(subject.model).items():
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
            continue  # a point has the probability 1
        severity: Literal["error", "warning"] = "error"
        if own.is_discrete != support.is_discrete:
            # Straight-through draws are discrete, their density is not.
            severity = "warning" if support.is_discrete and inside.all() else "error"
            discrete = "guide" if own.is_discrete else "model"
            message = (
                f"latent site {name!r} is discrete in the {discrete} alone ({kinds}): a "
                "probability would be compared with a density; use distributions of one kind"
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
        yield Finding.at(subject.place("guide", name), severity, message)
