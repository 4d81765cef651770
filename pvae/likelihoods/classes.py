"""Likelihoods of classes: categorical, and ordinal."""

from collections.abc import Sequence

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Categorical, constraints
from torch.nn.functional import logsigmoid, softplus
from torch.types import _size

from pvae.likelihoods.outputs import Likelihood

__all__ = ["ClassNumbers", "Classes", "Ordinal", "ordinal_logits"]


class ClassNumbers(TorchDistribution):
    """A categorical distribution whose values are floats: first, first + 1, ...

    Args:
        logits: unnormalized log-probabilities, shape `(*batch_shape, classes)`.
        first: the number of the first class.
        validate_args: whether arguments and values are checked.

    Example:
        >>> ClassNumbers(torch.tensor([0.0, 1.0]), first=1).mode
        tensor(2.)
    """

    arg_constraints = {"logits": constraints.real_vector}  # noqa: RUF012
    has_rsample = False

    def __init__(
        self, logits: Tensor, *, first: int = 0, validate_args: bool | None = None
    ) -> None:
        self.logits, self.first = logits, first
        super().__init__(logits.shape[:-1], validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        """The numbers of the classes."""
        return constraints.integer_interval(self.first, self.first + self.logits.shape[-1] - 1)

    @property
    def mode(self) -> Tensor:
        """The most probable class, shape `batch_shape`."""
        return self.logits.argmax(-1).to(self.logits.dtype) + self.first

    @property
    def mean(self) -> Tensor:
        """The most probable class: classes have no mean."""
        return self.mode

    def expand(self, batch_shape: _size, _instance: "ClassNumbers | None" = None) -> "ClassNumbers":
        """Return the same distribution with its batch expanded to `batch_shape`."""
        logits = self.logits.expand((*batch_shape, self.logits.shape[-1]))
        new = ClassNumbers(logits, first=self.first, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability in nats of the classes `value`."""
        if self._validate_args:
            self._validate_sample(value)
        index = (value - self.first).long().unsqueeze(-1)
        shape = torch.broadcast_shapes(index.shape[:-1], self.batch_shape)
        log_probs = self.logits.log_softmax(-1).expand((*shape, self.logits.shape[-1]))
        found: Tensor = log_probs.gather(-1, index.expand((*shape, 1))).squeeze(-1)
        return found

    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Draw classes, shape `sample_shape + batch_shape`."""
        with torch.no_grad():
            categorical = Categorical(logits=self.logits, validate_args=False)
            drawn: Tensor = categorical.sample(torch.Size(sample_shape))
            return drawn.to(self.logits.dtype) + self.first


def ordinal_logits(output: Tensor) -> Tensor:
    """From a network's output to log-probabilities of ordered classes, by cumulative logits.

    P(class <= k) = sigmoid(threshold_k - h), with increasing thresholds.

    Args:
        output: shape `(*batch, classes)`: h, the first threshold, and raw differences of the
            others, whose outputs of 0 correspond to differences of 1.

    Example:
        >>> ordinal_logits(torch.zeros(3)).exp().sum()
        tensor(1.)
    """
    h, first, raw = output[..., :1], output[..., 1:2], output[..., 2:]
    # softplus(0.5413...) = 1; above 1e-3, so that no class between has probability 0.
    gaps = 1e-3 + softplus(raw + 0.54)
    edges = torch.cat([first, first + gaps.cumsum(-1)], -1) - h
    below = logsigmoid(edges)  # log P(class <= k), k < last
    above = logsigmoid(-edges)  # log P(class > k)
    # sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(a - b)), without cancellation.
    inside = below[..., 1:] + above[..., :-1] + torch.log(-torch.expm1(-gaps))
    return torch.cat([below[..., :1], inside, above[..., -1:]], -1)


class Classes(Likelihood):
    """x of classes 0, 1, ... without order: one logit per class and dimension.

    Args:
        x_shape: shape of one datum.
        classes: number of classes, at least 2.

    Example:
        >>> x = Classes((3,), classes=4)(torch.zeros(5, 4, 3))
        >>> x.log_prob(torch.full((5, 3), 2.0)).exp()[0] * 4**3
        tensor(1.)
    """

    def __init__(self, x_shape: Sequence[int], *, classes: int = 10) -> None:
        super().__init__(x_shape)
        self.outputs = _at_least_two(classes)

    def distribution(self, output: Tensor) -> TorchDistribution:  # noqa: D102
        return ClassNumbers(output.movedim(-len(self.x_shape) - 1, -1))


class Ordinal(Likelihood):
    """x of ordered classes 0, 1, ...: cumulative logits with thresholds from the network.

    References:
        Regression Models for Ordinal Data (McCullagh, 1980),
        https://doi.org/10.1111/j.2517-6161.1980.tb01109.x.

    Args:
        x_shape: shape of one datum.
        classes: number of classes, at least 2.

    Example:
        >>> x = Ordinal((3,), classes=4)(torch.zeros(5, 4, 3))
        >>> x.mean.shape
        torch.Size([5, 3])
    """

    def __init__(self, x_shape: Sequence[int], *, classes: int = 10) -> None:
        super().__init__(x_shape)
        self.outputs = _at_least_two(classes)

    def distribution(self, output: Tensor) -> TorchDistribution:  # noqa: D102
        return ClassNumbers(ordinal_logits(output.movedim(-len(self.x_shape) - 1, -1)))


def _at_least_two(classes: int) -> int:
    if classes < 2:
        raise ValueError(f"classes is {classes}; expected at least 2")
    return classes
