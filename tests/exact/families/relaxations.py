"""Relaxed bits at probabilities and temperatures at which float32 rounds them to 0 and 1."""

from collections.abc import Iterator

import pyro
import pyro.distributions as dist
import torch
from exact.case import Row, of_objective
from exact.small_pairs import normal
from torch.nn.functional import softplus

from pvae.objectives import Concrete

X = 1.3


def bit(kind):
    def latent(logits, rows):
        logits = logits.expand(rows)
        if kind == "one-hot":
            return dist.OneHotCategorical(logits=torch.stack([logits, torch.zeros(rows)], -1))
        fn = dist.Bernoulli(logits=logits)
        return fn.mask(torch.zeros(rows).bool()) if kind == "masked" else fn

    def model(x):
        slope = pyro.param("slope")
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", latent(torch.tensor(0.5), len(x)))
            z = z[..., 0] if kind == "one-hot" else z
            pyro.sample("x", dist.Normal(slope * z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", latent(pyro.param("logit"), len(x)))

    return model, guide


def exact(kind, temperatures):
    """Quadrature over the quantiles of the logistic noise."""
    u = (torch.arange(400_000, dtype=torch.float64) + 0.5) / 400_000
    noise = u.log() - (-u).log1p()
    own, prior = temperatures

    def density(y, logit, temperature):
        apart = logit - temperature * y
        return torch.as_tensor(temperature).log() + apart - 2 * softplus(apart)

    def bound(at):
        y = (at["logit"] + noise) / own
        fits = normal(torch.tensor(X), at["slope"] * y.sigmoid(), torch.tensor(0.0).double())
        if kind == "masked":
            return fits.mean()
        return (fits + density(y, 0.5, prior) - density(y, at["logit"], own)).mean()

    return bound


def rows(effort: int) -> Iterator[Row]:
    for kind, logit, temperatures in (
        ("bit", 0.3, (2 / 3, 0.5)),
        ("bit", 8.0, (2 / 3, 0.5)),
        ("bit", 12.0, (2 / 3, 0.5)),
        ("bit", 2.0, (0.05, 0.03)),
        ("one-hot", 2.0, (0.1, 0.05)),
        ("one-hot", 9.0, (0.02, 0.02)),
        ("masked", 1.0, (2 / 3, 0.5)),
    ):
        objective = Concrete(temperature=temperatures[0], prior_temperature=temperatures[1])
        yield from of_objective(
            f"{kind} of logit {logit:g}, temperature {temperatures[0]:.2g}",
            objective, bit(kind), (X,), {"logit": logit, "slope": 2.0},
            exact(kind, temperatures), repeats=32 * effort,
        )  # fmt: skip
