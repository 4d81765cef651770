"""Does every datum count once? Compares scales of sites with those of their plates."""

import math
from collections.abc import Iterator

import torch

from pvae.checking.inspection import Inspection
from pvae.checking.report import Finding
from pvae.pair.traces import Site

__all__ = ["wrong_scales"]


def wrong_scales(inspection: Inspection) -> Iterator[Finding]:
    """Data scaled twice, by a plate and a handler; latents scaled in one program only."""
    proposed, twice = inspection.sites("guide"), []
    for name, site in inspection.sites("model").items():
        by_plates, own = _by_plates(site), _own(site)
        if by_plates != 1 and math.isclose(own, by_plates, rel_tol=1e-3):
            twice.append(name)
        if name in proposed:
            other = _own(proposed[name])
            if not math.isclose(own * by_plates, other * _by_plates(proposed[name]), rel_tol=1e-3):
                total = other * _by_plates(proposed[name])
                yield Finding.at(
                    inspection.location("model", name),
                    "error",
                    f"latent site {name!r} is scaled by {own * by_plates:g} in the model and by "
                    f"{total:g} in the guide, so log p and log q would have different weights: "
                    "use the same poutine.scale and the same plate in both",
                )
    # A handler around latents alone is a weight of the KL divergence.
    if any(inspection.sites("model")[name]["is_observed"] for name in twice):
        factor = _by_plates(inspection.sites("model")[twice[0]])
        yield Finding.at(
            inspection.location("model", twice[0]),
            "error",
            f"sites {twice} are scaled by {factor:g} twice, by their plate's subsampling and by a "
            "poutine.scale: so minibatches would count twice: remove the poutine.scale",
        )


def _by_plates(site: Site) -> float:
    """The scale of a site by subsampling plates."""
    factor = 1.0
    for frame in site["cond_indep_stack"]:
        if frame.full_size not in (None, frame.size):
            factor *= frame.full_size / frame.size
    return factor


def _own(site: Site) -> float:
    """The scale of a site by handlers other than plates."""
    scale = torch.as_tensor(site["scale"], dtype=torch.float64)
    return scale.mean().item() / _by_plates(site)
