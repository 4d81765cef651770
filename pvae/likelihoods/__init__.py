"""From a network's output to the distribution of x, or of a latent layer."""

import inspect
from collections.abc import Sequence

from pvae._validation import nearest, sizes
from pvae.likelihoods.classes import Classes, ClassNumbers, Ordinal
from pvae.likelihoods.continuous import Beta, LogNormal, StudentT
from pvae.likelihoods.continuous_bernoulli import LogitContinuousBernoulli
from pvae.likelihoods.counts import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from pvae.likelihoods.grey_levels import GreyCategorical, GreyLevels, GreyLogistic
from pvae.likelihoods.latent_layer import LatentLayer
from pvae.likelihoods.markov_chain import MarkovChain
from pvae.likelihoods.mixed import Mixed, SideBySide
from pvae.likelihoods.multivariate import GaussianFull, GaussianLowRank
from pvae.likelihoods.outputs import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    DiscretizedLogistic,
    Gaussian,
    GaussianLearnedScale,
    GaussianPixelScale,
    Likelihood,
)

__all__ = [
    "Bernoulli",
    "Beta",
    "Categorical",
    "ClassNumbers",
    "Classes",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "Gaussian",
    "GaussianFull",
    "GaussianLearnedScale",
    "GaussianLowRank",
    "GaussianPixelScale",
    "GreyCategorical",
    "GreyLevels",
    "GreyLogistic",
    "LatentLayer",
    "Likelihood",
    "LogNormal",
    "LogitContinuousBernoulli",
    "MarkovChain",
    "Mixed",
    "NegativeBinomial",
    "Ordinal",
    "Poisson",
    "SideBySide",
    "StudentT",
    "ZeroInflatedNegativeBinomial",
    "get",
    "names",
]

_CLASSES: dict[str, type[Likelihood]] = {
    "bernoulli": Bernoulli,
    "gaussian": Gaussian,
    "gaussian_learned_scale": GaussianLearnedScale,
    "gaussian_pixel_scale": GaussianPixelScale,
    "gaussian_low_rank": GaussianLowRank,
    "gaussian_full": GaussianFull,
    "categorical": Categorical,
    "continuous_bernoulli": ContinuousBernoulli,
    "discretized_logistic": DiscretizedLogistic,
    "student_t": StudentT,
    "log_normal": LogNormal,
    "beta": Beta,
    "poisson": Poisson,
    "negative_binomial": NegativeBinomial,
    "zero_inflated_negative_binomial": ZeroInflatedNegativeBinomial,
    "classes": Classes,
    "ordinal": Ordinal,
    "mixed": Mixed,
}

names: tuple[str, ...] = tuple(_CLASSES)
"""The names that `get` knows."""


def get(
    likelihood: str | type[Likelihood] | Likelihood,
    x_shape: Sequence[int],
    *,
    levels: int | None = None,
    **options: object,
) -> Likelihood:
    """Build a likelihood for data of shape `x_shape`.

    Args:
        likelihood: one of `names`, a class, or an instance, which is checked and returned.
        x_shape: shape of one datum.
        levels: number of grey levels of the data, at least 2; used by likelihoods over grey levels
            only (default: that of the class).
        **options: keyword arguments of the class.

    Returns:
        The likelihood.

    Raises:
        ValueError: if a name or option is unknown, or the instance was built for other data.

    Example:
        >>> get("discretized_logistic", (8, 8), levels=17).outputs
        2
    """
    x_shape = sizes(x_shape)
    if isinstance(likelihood, Likelihood):
        return _checked(likelihood, x_shape, levels, options)
    cls = _named(likelihood) if isinstance(likelihood, str) else likelihood
    if not (isinstance(cls, type) and issubclass(cls, Likelihood)):
        raise TypeError(
            f"likelihood is {likelihood!r}; expected a name of {list(names)}, a subclass of "
            "pvae.likelihoods.Likelihood, or an instance of one"
        )
    known = [name for name in inspect.signature(cls).parameters if name != "x_shape"]
    for option in options:
        if option not in known:
            raise ValueError(
                f"likelihood {cls.__name__} has no option {option!r}; "
                + (f"its options are {known}" if known else "it has no options")
            )
    if levels is not None and "levels" in known:
        options = {**options, "levels": levels}
    return cls(x_shape, **options)


def _named(name: str) -> type[Likelihood]:
    """The class of a name."""
    if name in _CLASSES:
        return _CLASSES[name]
    raise ValueError(
        f"unknown likelihood {name!r}; {nearest(name, names)}; or give a subclass of "
        "pvae.likelihoods.Likelihood"
    )


def _checked(
    built: Likelihood, x_shape: tuple[int, ...], levels: int | None, options: dict[str, object]
) -> Likelihood:
    """Check that an instance fits the data, and return it."""
    name = type(built).__name__
    if options:
        raise ValueError(
            f"likelihood {name} is an instance, and got options {sorted(options)}: "
            "give them to its constructor"
        )
    if built.x_shape != x_shape:
        raise ValueError(
            f"likelihood {name} was built for x_shape {built.x_shape}, the data have {x_shape}: "
            "build it with that shape, or give its class"
        )
    own = getattr(built, "levels", None)
    if levels is not None and own is not None and own != levels:
        raise ValueError(
            f"likelihood {name} was built for {own} grey levels, but got levels={levels}: "
            "build it with that number, or give its class"
        )
    return built
