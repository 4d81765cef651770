"""Do the guide's values have the shape that the prior gives them?"""

from collections.abc import Iterator

import torch

from pvae.checking.finding import Finding
from pvae.checking.inspection import Subject
from pvae.pair.traces import latent_sites

__all__ = ["shapes_of_latents"]


def shapes_of_latents(subject: Subject) -> Iterator[Finding]:
    """Latent sites whose values the prior would broadcast, or could not take."""
    proposed = subject.sites("guide")
    for name, site in latent_sites(subject.model).items():
        if name not in proposed:
            continue
        own, given = tuple(site["fn"].shape()), tuple(proposed[name]["value"].shape)
        events = len(site["fn"].event_shape), len(proposed[name]["fn"].event_shape)
        try:
            fits = torch.broadcast_shapes(own, given) == given and events[0] == events[1]
        except RuntimeError:
            fits = False
        if not fits:
            yield Finding.at(
                subject.place("guide", name),
                "error",
                f"the guide gives {name!r} values of shape {given} with {events[1]} event "
                f"dimension(s), the model's prior has shape {own} with {events[0]}: a latent needs "
                "the same shape in both, and the same .to_event(k)",
            )
