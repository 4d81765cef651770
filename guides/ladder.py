"""The ladder: inference from the top down that shares the model's own path."""

from collections.abc import Callable, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from pvae.nn import Flatten, HiddenLayers, positive

__all__ = ["Ladder"]


class Ladder(nn.Module):
    """A deterministic path up, then latent layers from the top down through the model's priors.

    q(z1, ..., zM | x) = q(zM | x) prod_{m < M} q(z_m | z_{m+1}, x)

    The path up, d_m = hidden(d_{m-1}) from d_0 = x, gives each layer loc_hat and scale_hat. The top
    is q(zM | x) = N(loc_hat, scale_hat^2); below, q(z_m | z_{m+1}, x) is the product, normalized,
    of N(loc_hat, scale_hat^2) and the model's p(z_m | z_{m+1}): precisions add, and loc is the mean
    weighted by them. The model's networks are trained from both sides, and are not part of this
    module: moving it, or setting its mode, leaves the model as it is. The paper trains five layers
    with batch normalization, of the model's hidden layers and these, and a warm-up of the latent
    terms: without either, layers far from the data tend to collapse to the prior.

    Its sites are "zM", ..., "z1", `(batch, dims[m - 1])`, in the plate "data".

    References:
        Ladder Variational Autoencoders (C. K. Sønderby, T. Raiko, L. Maaløe, S. K. Sønderby,
        O. Winther, 2016), https://arxiv.org/abs/1602.02282.

    Args:
        model: the model whose path is shared: `HelmholtzMachine` with Gaussian layers, or any
            module with `x_shape`, `dims` (z1 first) and `prior(m, above)`, which gives
            p(z_m | z_{m+1}) as an independent Normal.
        hidden: width of the one hidden layer of each step up, or widths of each; `()` reads all
            layers off x.
        activation: name of the nonlinearity after each hidden layer.
        norm: "batch", "weight" or None, as of `pvae.nn.HiddenLayers`.
        residual: whether each hidden layer adds its input to its output.

    Raises:
        TypeError: if the model has no path to share.
        ValueError: if the model's layers are not Gaussian, sizes do not fit, or the network is
            unknown.

    Example:
        >>> import torch
        >>> from pvae.models import HelmholtzMachine
        >>> model = HelmholtzMachine(x_shape=(8, 8), dims=(6, 4, 2), hidden=16)
        >>> z1 = Ladder(model, hidden=16)(torch.zeros(5, 8, 8))
    """

    def __init__(
        self,
        model: Callable[..., object],
        *,
        hidden: int | Sequence[int] = (),
        activation: str = "silu",
        norm: str | None = None,
        residual: bool = False,
    ) -> None:
        super().__init__()
        missing = [n for n in ("x_shape", "dims", "prior") if not hasattr(model, n)]
        if missing or not isinstance(model, nn.Module):
            kind = type(model).__name__
            what = f"has no {', '.join(missing)}" if missing else "is no torch.nn.Module"
            raise TypeError(
                f"Ladder shares the model's p(z_m | z_(m+1)), and {kind} {what}: use the model "
                "HelmholtzMachine ('helmholtz'), or give yours x_shape, dims and prior(m, above)"
            )
        if getattr(model, "latent", "gaussian") != "gaussian":
            raise ValueError(
                f"Ladder adds precisions of Gaussians, and the layers of {type(model).__name__} "
                f"are {model.latent!r}: use the guide BottomUp ('bottom_up'), or a model with "
                "latent='gaussian'"
            )
        path: Any = model
        # In a tuple, which hides it from nn.Module: its parameters are the model's alone.
        self._generative = (path,)
        self.flatten = Flatten(path.x_shape)
        self.hidden, self.heads = nn.ModuleList(), nn.ModuleList()
        size = self.flatten.out_features
        for dim in path.dims:
            layers = HiddenLayers(size, hidden, activation=activation, norm=norm, residual=residual)
            size = layers.out_features
            self.hidden.append(layers)
            self.heads.append(nn.Linear(size, 2 * dim))

    def forward(self, x: Tensor) -> Tensor:
        """Run the program q(z1, ..., zM | x).

        Args:
            x: a batch of data, shape `(batch, *x_shape)`.

        Returns:
            The value of site "z1", shape `(batch, dims[0])`.
        """
        (model,) = self._generative
        pyro.module("guide", self)
        pyro.module("model", model)  # as the model does: the store has its parameters once
        evidence = self.evidence(x)
        with pyro.plate("data", len(x)):
            top = len(evidence)
            z: Tensor = pyro.sample(f"z{top}", dist.Normal(*evidence[-1]).to_event(1))
            for m in range(top - 1, 0, -1):
                prior = model.prior(m, z).base_dist
                loc, scale = _product(*evidence[m - 1], prior.loc, prior.scale)
                z = pyro.sample(f"z{m}", dist.Normal(loc, scale).to_event(1))
        return z

    def evidence(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """What the path up says of each layer: loc_hat and scale_hat, z1's first.

        Args:
            x: a batch of data, shape `(batch, *x_shape)`.

        Returns:
            M pairs of tensors of shape `(batch, dims[m - 1])`.
        """
        found = []
        features = self.flatten(x)
        for hidden, head in zip(self.hidden, self.heads, strict=True):
            features = hidden(features)
            loc, raw = head(features).chunk(2, -1)
            found.append((loc, positive(raw)))
        return found


def _product(
    loc: Tensor, scale: Tensor, other_loc: Tensor, other_scale: Tensor
) -> tuple[Tensor, Tensor]:
    """Loc and scale of the normalized product of two Gaussians; precisions are never formed."""
    total = (scale.square() + other_scale.square()).sqrt()
    share = (other_scale / total).square()
    return share * loc + (1 - share) * other_loc, scale * other_scale / total
