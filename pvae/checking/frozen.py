"""Do frozen parameters stay frozen?"""

from collections.abc import Iterator

from pvae.checking.finding import Finding
from pvae.checking.inspection import Subject

__all__ = ["thawed_parameters"]


def thawed_parameters(subject: Subject) -> Iterator[Finding]:
    """Parameters that arrived with requires_grad=False and that Pyro made trainable."""
    names = [name for name, parameter in subject.belongings.frozen if parameter.requires_grad]
    if not names:
        return
    place = None
    for places in subject.places.values():
        for made, found in places.params.items():
            if found and any(name.endswith(made.replace("$$$", ".")) for name in names):
                place = place or found[0]
    shown = ", ".join(map(repr, names[:4])) + (", ..." if len(names) > 4 else "")
    yield Finding.at(
        place,
        "error",
        f"parameters {shown} arrived frozen (requires_grad=False), and Pyro makes every parameter "
        "that it registers trainable, those of a PyroModule too: keep a frozen network out of "
        "Pyro's hands (hold it in a plain list or a closure), or use its output under "
        "torch.no_grad()",
    )
