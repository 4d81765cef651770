"""Modules that turn the output of a network into a distribution of x."""

import math
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.nn.functional import softplus

from pvae._validation import sizes
from pvae.likelihoods.continuous_bernoulli import LogitContinuousBernoulli
from pvae.likelihoods.grey_levels import GreyCategorical, GreyLogistic
from pvae.nn import positive

__all__ = [
    "Bernoulli",
    "Categorical",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "Gaussian",
    "GaussianLearnedScale",
    "GaussianPixelScale",
    "Likelihood",
]


class Likelihood(nn.Module):
    """The distribution of x given a network's output, independent over the dimensions of x.

    Subclasses set `outputs` and implement `distribution`.

    Args:
        x_shape: shape of one datum, e.g. `(28, 28)`.

    Attributes:
        outputs: number of network outputs per dimension of x.

    Example:
        >>> class Poisson(Likelihood):
        ...     def distribution(self, output):
        ...         (log_rate,) = self._unbind(output)
        ...         return dist.Poisson(log_rate.exp())
        >>> counts = Poisson(x_shape=(3,))(torch.zeros(5, 1, 3))
        >>> counts.batch_shape, counts.event_shape
        (torch.Size([5]), torch.Size([3]))
    """

    outputs: int = 1

    def __init__(self, x_shape: Sequence[int]) -> None:
        super().__init__()
        self.x_shape = sizes(x_shape)

    def forward(self, output: Tensor) -> TorchDistribution:
        """Return the distribution of x, of event shape `x_shape`.

        Args:
            output: of the network, shape `(*batch, outputs, *x_shape)`.

        Returns:
            A distribution of batch shape `batch`.

        Raises:
            ValueError: if the trailing shape is not `(outputs, *x_shape)`.
        """
        self._check(output)
        independent: TorchDistribution = self.distribution(output).to_event(len(self.x_shape))
        return independent

    def _check(self, output: Tensor) -> None:
        event_dim = len(self.x_shape)
        expected = (self.outputs, *self.x_shape)
        if tuple(output.shape[-event_dim - 1 :]) != expected:
            raise ValueError(
                f"{type(self).__name__} got network output of shape {tuple(output.shape)}; "
                f"expected (*batch, outputs, *x_shape) that ends in {expected}: "
                "build the network with this out_shape"
            )

    def distribution(self, output: Tensor) -> TorchDistribution:
        """Return the distribution of each dimension of x, of batch shape `(*batch, *x_shape)`."""
        raise NotImplementedError(f"{type(self).__name__} does not implement distribution(output)")

    def _unbind(self, output: Tensor) -> tuple[Tensor, ...]:
        """Split `(*batch, outputs, *x_shape)` into `outputs` tensors `(*batch, *x_shape)`."""
        place = -len(self.x_shape) - 1
        # A view backward, too, where unbind would copy.
        one = output.shape[place] == 1
        return (output.squeeze(place),) if one else output.unbind(place)


class Bernoulli(Likelihood):
    """Binary x in {0, 1}: one logit per dimension.

    Example:
        >>> x = Bernoulli((8, 8))(torch.zeros(5, 1, 8, 8))
        >>> x.log_prob(torch.ones(5, 8, 8)).shape  # nats per datum
        torch.Size([5])
    """

    def distribution(self, output: Tensor) -> TorchDistribution:  # noqa: D102
        (logits,) = self._unbind(output)
        bernoulli: TorchDistribution = dist.Bernoulli(logits=logits)
        return bernoulli


class Gaussian(Likelihood):
    """Real x: N(x; loc, 1) with loc from the network.

    Example:
        >>> x = Gaussian((3,))(torch.zeros(5, 1, 3))
        >>> x.mean.shape
        torch.Size([5, 3])
    """

    def distribution(self, output: Tensor) -> TorchDistribution:  # noqa: D102
        (loc,) = self._unbind(output)
        return dist.Normal(loc, torch.ones_like(loc))


class GaussianLearnedScale(Likelihood):
    """Real x: N(x; loc, scale^2) with loc from the network and one scale, a trained parameter.

    Args:
        x_shape: shape of one datum.
        scale: initial scale, positive, in units of x.

    Example:
        >>> likelihood = GaussianLearnedScale((3,), scale=0.5)
        >>> round(likelihood.log_scale.exp().item(), 3)
        0.5
    """

    def __init__(self, x_shape: Sequence[int], *, scale: float = 1.0) -> None:
        super().__init__(x_shape)
        if not 0 < scale < math.inf:
            raise ValueError(f"scale is {scale}; expected a positive, finite number")
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))

    def distribution(self, output: Tensor) -> TorchDistribution:  # noqa: D102
        (loc,) = self._unbind(output)
        return dist.Normal(loc, self.log_scale.exp().expand_as(loc))


class GaussianPixelScale(Likelihood):
    """Real x: N(x; loc, scale^2) with loc and scale of each dimension from the network.

    Scales stay above 0.001 in units of x, since the density of a constant dimension is unbounded as
    its scale shrinks.

    Example:
        >>> x = GaussianPixelScale((3,))(torch.zeros(5, 2, 3))  # loc and raw scale
        >>> x.stddev[0]
        tensor([1.0000, 1.0000, 1.0000])
    """

    outputs = 2

    def distribution(self, output: Tensor) -> TorchDistribution:  # noqa: D102
        loc, raw = self._unbind(output)
        return dist.Normal(loc, positive(raw, floor=1e-3))


class ContinuousBernoulli(Likelihood):
    """x in [0, 1]: one logit, the natural parameter, per dimension.

    References:
        The continuous Bernoulli: fixing a pervasive error in variational autoencoders
        (Loaiza-Ganem and Cunningham, 2019), https://arxiv.org/abs/1907.06845.

    Example:
        >>> ContinuousBernoulli((3,))(torch.zeros(5, 1, 3)).mean[0]
        tensor([0.5000, 0.5000, 0.5000])
    """

    def distribution(self, output: Tensor) -> TorchDistribution:  # noqa: D102
        (logits,) = self._unbind(output)
        return LogitContinuousBernoulli(logits)


class Categorical(Likelihood):
    """Grey levels x = k / (levels - 1): one logit per level and dimension.

    A fully connected decoder needs `levels` outputs per pixel: 80 million weights for 256 levels on
    28 x 28 pixels after 400 hidden units. A convolutional decoder shares them over the pixels.

    Args:
        x_shape: shape of one datum.
        levels: number of grey levels, at least 2.

    Example:
        >>> x = Categorical((3,), levels=17)(torch.zeros(5, 17, 3))
        >>> x.log_prob(torch.full((5, 3), 0.5)).exp()[0] * 17**3
        tensor(1.0000)
    """

    def __init__(self, x_shape: Sequence[int], *, levels: int = 256) -> None:
        super().__init__(x_shape)
        self.levels = self.outputs = _checked_levels(levels)

    def distribution(self, output: Tensor) -> TorchDistribution:  # noqa: D102
        return GreyCategorical(output.movedim(-len(self.x_shape) - 1, -1))


class DiscretizedLogistic(Likelihood):
    """Grey levels x = k / (levels - 1): a rounded logistic variable, loc and scale from the
    network.

    Outputs of 0 correspond to loc 1/2 and a scale of about 0.14. The scale stays above exp(-4) of
    the width of a bin, at which a grey level has probability 1 in float32; the bound is a softplus,
    which keeps a gradient.

    References:
        Improving Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016),
        https://arxiv.org/abs/1606.04934.
        PixelCNN++: Improving the PixelCNN with Discretized Logistic Mixture Likelihood and Other
        Modifications (Salimans et al., 2017), https://arxiv.org/abs/1701.05517. There the log_scale
        is clamped at -7 for x in [-1, 1]: a bin inside the range then has probability 0.97 at most,
        and no gradient below.

    Args:
        x_shape: shape of one datum.
        levels: number of grey levels, at least 2.

    Example:
        >>> x = DiscretizedLogistic((8, 8), levels=17)(torch.zeros(5, 2, 8, 8))
        >>> x.mean.shape
        torch.Size([5, 8, 8])
    """

    outputs = 2

    def __init__(self, x_shape: Sequence[int], *, levels: int = 256) -> None:
        super().__init__(x_shape)
        self.levels = _checked_levels(levels)

    def distribution(self, output: Tensor) -> TorchDistribution:  # noqa: D102
        loc, raw = self._unbind(output)
        floor = -math.log(self.levels - 1) - 4.0
        log_scale = floor + softplus(raw - 2.0 - floor)
        return GreyLogistic(loc + 0.5, log_scale, self.levels)


def _checked_levels(levels: int) -> int:
    """Return levels, at least 2."""
    if levels < 2:
        raise ValueError(f"levels is {levels}; expected at least 2 grey levels")
    return levels
