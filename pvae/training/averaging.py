"""The exponential moving average of a pair's parameters."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pvae.pair.pair import Pair

__all__ = ["WeightAverage"]


class WeightAverage:
    """An average of the parameters over steps, in which a step counts less the longer it is past.

    After step n, counted from 1, average = d average + (1 - d) parameter, with d = min(decay,
    (1 + n) / (10 + n)), so that the first values are soon forgotten. Buffers, as those of batch
    normalization, are not averaged.

    References:
        Acceleration of Stochastic Approximation by Averaging (B. T. Polyak, A. B. Juditsky, 1992),
        https://doi.org/10.1137/0330046

    Args:
        pair: its parameters, as they are now, are the first average.
        decay: at least 0 and below 1; about 1 / (1 - decay) steps count.
    """

    def __init__(self, pair: Pair, decay: float) -> None:
        self.pair, self.decay = pair, decay
        self._values: dict[str, Tensor] = {}
        self._matched: tuple[list[Tensor], list[Tensor]] = ([], [])
        self.include()

    def include(self) -> None:
        """Begin to average parameters that appeared since; drop those that are gone."""
        params = self.pair.parameters()
        self._values = {
            name: self._values.get(name, parameter.detach().clone())
            for name, parameter in params.items()
        }
        self._matched = ([p.detach() for p in params.values()], list(self._values.values()))

    def update(self, step: int) -> None:
        """Count the parameters in, after a step, counted from 1."""
        params, averages = self._matched
        decay = min(self.decay, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(averages, params, 1 - decay)

    def apply(self) -> None:
        """Give the parameters the values of the average."""
        self._copy(self._values)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block, the parameters have the values of the average."""
        params = self.pair.parameters()
        before = {name: parameter.detach().clone() for name, parameter in params.items()}
        self.apply()
        try:
            yield
        finally:
            self._copy(before)

    def _copy(self, values: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.pair.parameters().items():
                if name in values:
                    parameter.copy_(values[name])

    def state_dict(self) -> dict[str, Any]:
        """A copy of the average, in types that load without pickle."""
        return {name: value.clone() for name, value in self._values.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._values = {name: value.clone() for name, value in state.items()}
        self.include()
