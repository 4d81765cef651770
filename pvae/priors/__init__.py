"""Distributions of z with parameters of their own: the priors of models, one a file."""

import inspect

from pvae._validation import nearest
from pvae.priors.flow import Flow
from pvae.priors.gaussian import Learned, Standard
from pvae.priors.mixture import Mixture
from pvae.priors.prior import Prior
from pvae.priors.vamp import Vamp

__all__ = ["Flow", "Learned", "Mixture", "Prior", "Standard", "Vamp", "get", "names"]

_CLASSES: dict[str, type[Prior]] = {
    "standard": Standard,
    "learned": Learned,
    "mixture": Mixture,
    "vamp": Vamp,
    "flow": Flow,
}

names: tuple[str, ...] = tuple(_CLASSES)
"""The names that `get` knows."""


def get(prior: str | type[Prior] | Prior, z_dim: int, **options: object) -> Prior:
    """Build a prior over z of shape `(z_dim,)`.

    Args:
        prior: one of `names`, a class, or an instance, which is checked and returned.
        z_dim: number of latent variables, at least 1.
        **options: keyword arguments of the class; those that it does not have are left out.

    Returns:
        The prior.

    Raises:
        ValueError: if the name is unknown, or the instance was built for another z_dim.
        TypeError: if it is anything else.

    Example:
        >>> get("mixture", 3, components=5)().event_shape
        torch.Size([3])
    """
    if isinstance(prior, Prior):
        if prior.z_dim != z_dim:
            raise ValueError(
                f"prior {type(prior).__name__} was built for z_dim={prior.z_dim}, and the model "
                f"has z_dim={z_dim}: build it with that number, or give its class"
            )
        return prior
    if isinstance(prior, str):
        if prior not in _CLASSES:
            raise ValueError(
                f"unknown prior {prior!r}; {nearest(prior, names)}; or give a subclass of "
                "pvae.priors.Prior"
            )
        prior = _CLASSES[prior]
    if not (isinstance(prior, type) and issubclass(prior, Prior)):
        raise TypeError(
            f"prior is {prior!r}; expected a name of {list(names)}, a subclass of "
            "pvae.priors.Prior, or an instance of one"
        )
    known = inspect.signature(prior).parameters
    return prior(z_dim, **{name: value for name, value in options.items() if name in known})
