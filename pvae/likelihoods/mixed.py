"""The likelihood of tables: each column has its own."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.types import _size

from pvae.likelihoods.classes import ClassNumbers, ordinal_logits
from pvae.likelihoods.outputs import Likelihood
from pvae.nn import positive

__all__ = ["Mixed", "SideBySide"]

_OUTPUTS = {"real": 2, "pos": 2, "count": 1}


class SideBySide(TorchDistribution):
    """Distributions of single numbers side by side, as the last batch dimension.

    Args:
        parts: distributions of equal batch shape and empty event shape.
        shifts: what is added to the values of each.
        validate_args: whether values are checked.

    Example:
        >>> parts = [dist.Normal(torch.zeros(5), 1.0), dist.Poisson(torch.ones(5))]
        >>> SideBySide(parts, [0, 0]).sample().shape
        torch.Size([5, 2])
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012
    has_rsample = False

    def __init__(
        self,
        parts: Sequence[TorchDistribution],
        shifts: Sequence[float],
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.parts, self.shifts = tuple(parts), tuple(shifts)
        shape = torch.Size((*parts[0].batch_shape, len(parts)))
        super().__init__(shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> constraints.Constraint:
        """The supports of the parts."""
        supports: list[Any] = [part.support for part in self.parts]
        return _Supports(supports, self.shifts)

    @property
    def mean(self) -> Tensor:
        """The means, and of classes the most probable ones, shape `batch_shape`."""
        return self._stacked([part.mean for part in self.parts])

    def expand(self, batch_shape: _size, _instance: "SideBySide | None" = None) -> "SideBySide":
        """Return the same distribution with its batch expanded to `batch_shape`."""
        parts = [part.expand(torch.Size(batch_shape[:-1])) for part in self.parts]
        new = SideBySide(parts, self.shifts, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-densities and log-probabilities in nats, of the shape of `value`."""
        if self._validate_args:
            self._validate_sample(value)
        terms = [
            part.log_prob(value[..., i] - shift)
            for i, (part, shift) in enumerate(zip(self.parts, self.shifts, strict=True))
        ]
        return torch.stack(terms, -1)

    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Draw values, shape `sample_shape + batch_shape`."""
        with torch.no_grad():
            return self._stacked([part.sample(sample_shape) for part in self.parts])

    def _stacked(self, values: Sequence[Tensor]) -> Tensor:
        moved = [value + shift for value, shift in zip(values, self.shifts, strict=True)]
        return torch.stack(moved, -1)


class _Supports(constraints.Constraint):
    """The support of each column."""

    is_discrete = False
    event_dim = 0

    def __init__(self, supports: Sequence[constraints.Constraint], shifts: Sequence[float]) -> None:
        self.supports, self.shifts = supports, shifts
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """Say for each entry whether it is in its column's support."""
        columns = zip(self.supports, self.shifts, strict=True)
        checked = [s.check(value[..., i] - shift) for i, (s, shift) in enumerate(columns)]
        return torch.stack(checked, -1)

    def __repr__(self) -> str:
        return f"columns of {', '.join(map(repr, self.supports))}"


class Mixed(Likelihood):
    """The columns of a table, each with the likelihood of its kind.

    "real": Gaussian; "pos", 0 or more: log(1 + x) is Gaussian; "count": Poisson; "cat": a logit for
    each class; "ordinal": cumulative logits. Numbers are in units of each column: outputs of 0
    correspond to its `loc` and `scale`.

    References:
        Handling Incomplete Heterogeneous Data using VAEs (Nazabal, Olmos, Ghahramani and Valera,
        2018), https://arxiv.org/abs/1807.03653.

    Args:
        x_shape: `(columns,)`.
        columns: for each column a kind, or a mapping with its "kind", for numbers "loc" and "scale"
            (default: 0 and 1; of log(1 + x) for "pos", and of "count" the scale alone), and for
            classes their number "classes" and the number of the first, "first" (default: 0).

    Raises:
        ValueError: if columns are missing, unknown or not as many as x has.

    Example:
        >>> columns = ["real", "count", {"kind": "cat", "classes": 3}]
        >>> likelihood = Mixed((3,), columns=columns)
        >>> likelihood(torch.zeros(5, likelihood.outputs, 3)).sample().shape
        torch.Size([5, 3])
    """

    def __init__(
        self,
        x_shape: Sequence[int],
        *,
        columns: Sequence[str | Mapping[str, object]] | None = None,
    ) -> None:
        super().__init__(x_shape)
        if columns is None:
            raise ValueError(
                "the likelihood 'mixed' needs the columns of the table: use the model `tabular`, "
                "which passes them on, or give Mixed(x_shape, columns=[...])"
            )
        if self.x_shape != (len(columns),):
            raise ValueError(f"x has shape {self.x_shape}, and there are {len(columns)} columns")
        self.columns = [dict(c) if isinstance(c, Mapping) else {"kind": c} for c in columns]
        for i, column in enumerate(self.columns):
            kind, classes = column.get("kind"), column.get("classes")
            if kind not in (*_OUTPUTS, "cat", "ordinal"):
                raise ValueError(
                    f"column {i} has kind {kind!r}: give real, pos, count, cat or ordinal"
                )
            if kind in ("cat", "ordinal") and not (isinstance(classes, int) and classes >= 2):
                raise ValueError(f"column {i} is {kind!r}: give its number of classes, at least 2")
        sizes = [_OUTPUTS.get(str(c["kind"])) or int(str(c["classes"])) for c in self.columns]
        self.sizes, self.outputs = sizes, max(sizes)

    def distribution(self, output: Tensor) -> TorchDistribution:  # noqa: D102
        parts, shifts = [], []
        for i, (column, size) in enumerate(zip(self.columns, self.sizes, strict=True)):
            part, shift = _part(column, output[..., :size, i])
            parts.append(part)
            shifts.append(shift)
        return SideBySide(parts, shifts)


def _part(column: Mapping[str, object], output: Tensor) -> tuple[TorchDistribution, float]:
    """The distribution of one column, from outputs `(*batch, size)`, and its shift."""
    kind = column["kind"]
    if kind in ("cat", "ordinal"):
        logits = output if kind == "cat" else ordinal_logits(output)
        return ClassNumbers(logits), float(str(column.get("first", 0)))
    loc, scale = (float(str(column.get(name, of))) for name, of in (("loc", 0), ("scale", 1)))
    if kind == "count":
        return dist.Poisson(scale * positive(output[..., 0], floor=1e-4)), 0.0
    centre = loc + scale * output[..., 0]
    spread = scale * positive(output[..., 1], floor=1e-3)
    if kind == "real":
        return dist.Normal(centre, spread), 0.0
    return dist.LogNormal(centre, spread), -1.0
