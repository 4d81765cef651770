"""Stochastic variational inference: Pyro's SVI, with one seam where a step is carried out."""

from collections.abc import Callable, Iterable
from typing import Any, cast

import pyro
import torch
from pyro import poutine
from pyro.infer import ELBO
from pyro.optim import PyroOptim
from torch import Tensor
from torch.optim import Optimizer

from pvae.optimizers import MakeOptimizer, TorchOptim

__all__ = ["SVI"]


class SVI(pyro.infer.SVI):
    """Pyro's SVI, which also takes torch's optimizers and gives losses that stay on the device.

    `step` and `evaluate_loss` are Pyro's. `step_tensor` is what `fit` uses: it scales and clips
    gradients, and nothing in it but the objective itself reads a value from the device.

    References:
        Stochastic Variational Inference (M. Hoffman, D. Blei, C. Wang, J. Paisley, 2013),
        https://arxiv.org/abs/1206.7051

    Args:
        model: p(x, z).
        guide: q(z | x).
        optim: a `PyroOptim`, a torch `Optimizer`, or a callable from parameters to one.
        loss: a `pyro.infer.ELBO`, or a callable `loss(model, guide, *args)`.
        clip_norm: gradients of `step_tensor` are scaled to this global norm when theirs is larger.
    """

    def __init__(
        self,
        model: Callable[..., object],
        guide: Callable[..., object],
        optim: PyroOptim | Optimizer | MakeOptimizer,
        loss: ELBO | Callable[..., object],
        *,
        clip_norm: float | None = None,
    ) -> None:
        optim = optim if isinstance(optim, PyroOptim) else TorchOptim(optim)
        super().__init__(model, guide, optim, loss)  # type: ignore[no-untyped-call]
        self.clip_norm = clip_norm
        self.engine = "eager"

    def step_tensor(
        self, batch: tuple[Tensor, ...], *, weight: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Take one gradient step on `weight` times the loss.

        Args:
            batch: the arguments of model and guide.
            weight: what makes nats per datum of the objective's loss: 1 / len(batch) as a rule.

        Returns:
            The weighted loss (its first part where the objective has several), and the global norm
            of the weighted gradient before clipping (zero where nothing is clipped), of shape ().
        """
        with poutine.trace(param_only=True) as params_seen:
            loss = self.loss_and_grads(self.model, self.guide, *batch)
        sites = cast(Iterable[dict[str, Any]], params_seen.trace.nodes.values())
        params = list(dict.fromkeys(site["value"].unconstrained() for site in sites))
        gradients = [p.grad for p in params if p.grad is not None]
        norm = batch[0].new_zeros((), dtype=torch.float32)
        if gradients:
            torch._foreach_mul_(gradients, weight)
            if self.clip_norm is not None:
                norm = torch.nn.utils.clip_grad_norm_(params, self.clip_norm)
        self.optim(params)
        pyro.infer.util.zero_grads(params)
        first = loss[0] if isinstance(loss, tuple) else loss
        value = torch.as_tensor(cast(float, first), device=batch[0].device, dtype=torch.float32)
        return value.detach() * weight, norm
