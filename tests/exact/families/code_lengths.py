"""Bits per element of data whose distribution is uniform over known levels."""

from collections.abc import Iterator

import pyro
import pyro.distributions as dist
import torch
from exact.case import Row

import pvae


def uniform(kind):
    """Five elements of four levels; some are not seen."""

    def model(x, seen):
        one_hot, flat = "one-hot" in kind, torch.ones(len(x), 5, 4)
        fn = dist.OneHotCategorical(flat) if one_hot else dist.Categorical(flat)
        if kind.startswith("masked"):
            fn = fn.mask(seen)
        by_handler = seen.any(1) if kind == "whole data masked" else torch.ones(len(x)).bool()
        with pyro.plate("data", len(x)), pyro.poutine.mask(mask=by_handler):
            pyro.sample("x", fn.to_event(1), obs=x)

    return model


def rows(effort: int) -> Iterator[Row]:
    generator = torch.Generator().manual_seed(7)
    levels = torch.randint(0, 4, (40, 5), generator=generator)
    kinds = ("categorical", "one-hot", "masked", "masked one-hot", "whole data masked")
    for kind in kinds:
        x = torch.nn.functional.one_hot(levels, 4).float() if "one-hot" in kind else levels
        seen = torch.rand(40, 5, generator=generator) < 0.7
        if kind == "whole data masked":
            seen = seen & (torch.arange(40) % 3 > 0)[:, None]
        found = pvae.log_likelihood(uniform(kind), lambda x, seen: None, (x, seen), 2 * effort)
        yield Row(f"four levels, {kind}", "bits_per_dim", found.bits_per_dim, 2.0, 0.0)
