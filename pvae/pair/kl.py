"""KL divergences of single latent sites in closed form, and where they may replace a draw."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import (
    Distribution,
    Independent,
    MultivariateNormal,
    Normal,
    kl_divergence,
)

from pvae.pair.distributions import is_delta, own_masks

__all__ = ["closed_form_kl", "sites_with_exact_kl"]


def closed_form_kl(q: Distribution, p: Distribution) -> Tensor | None:
    """KL(q || p) in nats, shape `q.batch_shape`; None if no formula is known.

    Example:
        >>> closed_form_kl(Normal(1.0, 1.0), Normal(0.0, 1.0))
        tensor(0.5000)
    """
    if is_delta(q):
        return None  # its log_density would be left out
    if not _same_masks(own_masks(q), own_masks(p)):
        return None  # torch's formula would apply both masks to both densities
    if isinstance(q, MultivariateNormal) and isinstance(p, Independent):
        base = p.base_dist
        if isinstance(base, Normal) and p.reinterpreted_batch_ndims == 1:
            p = MultivariateNormal(base.loc, scale_tril=torch.diag_embed(base.scale))
    try:
        return kl_divergence(q, p)
    except NotImplementedError:
        return None


def _same_masks(of_q: Sequence[bool | Tensor], of_p: Sequence[bool | Tensor]) -> bool:
    """Whether two distributions have the same masks: the same memory, or the same constants."""
    if len(of_q) != len(of_p):
        return False
    for one, other in zip(of_q, of_p, strict=True):
        if isinstance(one, Tensor) and isinstance(other, Tensor):
            layouts = [(m.data_ptr(), m.shape, m.stride()) for m in (one, other)]
            if layouts[0] != layouts[1]:
                return False
        elif one is not other:
            return False
    return True


def sites_with_exact_kl(model_order: Sequence[str], guide_order: Sequence[str]) -> list[str]:
    """Latent sites at which a closed-form KL has the expectation of the log-ratio at the draw.

    The closed form of site s averages over z_s alone, given the sites before it in the guide. It
    is exact unless p(z_s | .) depends on a site that the guide draws after s (from z_s, perhaps):
    all latent sites that precede s in the model must precede it in the guide.

    Args:
        model_order: the model's latent sites as it samples them.
        guide_order: the guide's.

    Example:
        >>> sites_with_exact_kl(["z2", "z1"], ["z1", "z2"])  # bottom-up: z1 needs z2 first
        ['z2']
    """
    exact = []
    for place, name in enumerate(model_order):
        if name in guide_order:
            before = guide_order[: list(guide_order).index(name)]
            if set(model_order[:place]) <= set(before):
                exact.append(name)
    return exact
