"""The evidence lower bound by site, with analytic KL, weights and free bits."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pvae._validation import at_least, whole
from pvae.objectives.compatibility import require_reparameterized
from pvae.objectives.divergences import analytic, at_draws
from pvae.objectives.objective import Objective, PerDatum
from pvae.objectives.structure import IncompatibleObjectiveError, PairStructure
from pvae.pair.particles import total
from pvae.pair.traces import latent_sites

__all__ = ["ELBO"]

_KL = ("monte_carlo", "analytic")
_OVER = ("datum", "batch")


class ELBO(Objective):
    """The evidence lower bound, with a weight for the divergence of each latent site.

    log p(x | z) - sum_s beta_s max(free_bits, KL_s), KL_s = log q(z_s | .) - log p(z_s | .)

    With the default options it equals `Trace_ELBO`: the same draws have the same loss and gradient.

    References:
        Auto-Encoding Variational Bayes (D. P. Kingma, M. Welling, 2013),
        https://arxiv.org/abs/1312.6114, for both estimators of the KL divergence.
        beta-VAE (I. Higgins et al., 2017), https://openreview.net/forum?id=Sy2fzU9gl.
        Ladder Variational Autoencoders (C. K. Sonderby et al., 2016; section 2.3), for warm-up,
        https://arxiv.org/abs/1602.02282.
        Improved Variational Inference with Inverse Autoregressive Flow (D. P. Kingma et al., 2016;
        appendix C.8), for free bits over the batch, https://arxiv.org/abs/1606.04934.

    Args:
        num_particles: draws per datum over which the estimate is averaged, at least 1.
        kl: "monte_carlo", or "analytic": the closed form at each site that has one and whose prior
            depends on no site that follows it in the guide; Monte Carlo at the others, and where
            masks or scales of model and guide differ.
        beta: weight of the KL divergences; at least 0, and 1 for a bound on log p(x).
        warmup: epochs in which the weight rises to `beta`; see `set_epoch`.
        sites: latent sites that `beta`, `warmup` and `free_bits` apply to (default: all); the
            others have the weight 1.
        free_bits: KL divergence per site, in nats per datum, below which the loss is constant.
        free_bits_over: "datum" clamps the divergence of each datum, "batch" its mean over the
            batch, as in Kingma et al. (the loss is then not a sum over data).

    Raises:
        ValueError: if an option is unknown, or a number is out of its range.

    Example:
        >>> import pvae, torch
        >>> model = pvae.models.VAE(x_shape=(4,), z_dim=2, hidden=8)
        >>> guide = pvae.guides.MeanField(x_shape=(4,), z_dim=2, hidden=8)
        >>> x = torch.rand(32, 4).round()
        >>> objective = pvae.objectives.ELBO(kl="analytic", beta=0.5)
        >>> objective.per_datum(model, guide, x).shape  # nats
        torch.Size([32])
    """

    def __init__(
        self,
        num_particles: int = 1,
        *,
        kl: str = "monte_carlo",
        beta: float = 1.0,
        warmup: int = 0,
        sites: Sequence[str] | None = None,
        free_bits: float = 0.0,
        free_bits_over: str = "datum",
    ) -> None:
        super().__init__(num_particles)
        for name, value, known in (("kl", kl, _KL), ("free_bits_over", free_bits_over, _OVER)):
            if value not in known:
                raise ValueError(f"{name} is {value!r}: give one of {', '.join(known)}")
        at_least(0, beta=beta, free_bits=free_bits)
        if beta > torch.finfo(torch.float32).max:
            raise ValueError(f"beta is {beta}: give a number that float32 can hold")
        whole(0, warmup=warmup)
        self.kl, self.beta, self.warmup = kl, beta, warmup
        self.sites = (sites,) if isinstance(sites, str) else sites
        self.free_bits, self.free_bits_over = free_bits, free_bits_over
        # A tensor, which recorded steps read.
        self.weight = torch.tensor(float(beta))
        self.set_epoch(0)

    def set_epoch(self, number: int) -> None:
        """Set the weight of the divergences for an epoch, counted from 0, linearly up to `beta`."""
        self.weight.fill_(self.beta * min(1.0, (number + 1) / (self.warmup + 1)))

    def scheduled(self) -> dict[str, float]:
        """The weight of the divergences, if it has a warm-up."""
        return {"objective_beta": self.weight.item()} if self.warmup else {}

    def check_compatible(self, structure: PairStructure, batch: tuple[Any, ...]) -> None:
        """Require reparameterized sites, and check the names in `sites`."""
        require_reparameterized(self, structure, "REINFORCE, or VIMCO")
        known = list(latent_sites(structure.model_trace))
        wrong = [name for name in self.sites or () if name not in known]
        if wrong:
            raise IncompatibleObjectiveError(
                f"ELBO got sites {wrong}: the model's latent sites are {known}"
            )
        further = [name for name in latent_sites(structure.guide_trace) if name not in known]
        if further and (self.sites is not None or self.free_bits):
            raise IncompatibleObjectiveError(
                f"ELBO got sites or free_bits, and the guide draws {further}, which the model does "
                "not have, so they belong to no divergence: leave these options out"
            )
        self.weight = self.weight.to(batch[0].device)

    def estimate(self, structure: PairStructure, batch: tuple[Any, ...]) -> PerDatum:
        """The bound of each datum, which is its own surrogate."""
        # Closed forms need model and guide in one layout.
        draw = structure.particles.draw(batch, self.num_particles, tiled=self.kl == "analytic")
        log_p, log_q = draw.log_p, draw.log_q
        local = at_draws(log_p.local, log_q.local, draw)
        if self.kl == "analytic":
            local |= analytic(structure.particles, draw)
        rest = total({name: value for name, value in log_p.local.items() if name not in local})
        counted = {name: self._counted(name, value.mean(0)) for name, value in local.items()}
        bound = rest.mean(0) - total(counted)
        global_ = at_draws(log_p.global_, log_q.global_, draw)
        rest = total({name: value for name, value in log_p.global_.items() if name not in global_})
        weighted = {name: self._weighted(name, value) for name, value in global_.items()}
        return PerDatum(bound, bound, rest - total(weighted))

    def _counted(self, name: str, divergence: Tensor) -> Tensor:
        """A site's divergence of each datum, shape (rows,), with free bits and weight."""
        if self.free_bits and self._chosen(name):
            if self.free_bits_over == "batch":
                divergence = divergence.mean().expand_as(divergence)
            divergence = divergence.clamp(min=self.free_bits)
        return self._weighted(name, divergence)

    def _weighted(self, name: str, divergence: Tensor) -> Tensor:
        constant = self.beta == 1 and not self.warmup
        return divergence if constant or not self._chosen(name) else divergence * self.weight

    def _chosen(self, name: str) -> bool:
        return self.sites is None or name in self.sites
