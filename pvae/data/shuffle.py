"""A random order of any number of rows in constant memory."""

import numpy as np
import numpy.typing as npt

__all__ = ["Shuffle"]

_ROUNDS = 8


class Shuffle:
    """A permutation of 0, ..., n - 1 that is computed where it is asked for.

    It is a Feistel network on pairs of halves of the bits; numbers that leave the range go through
    it again until they are back.

    References:
        Ciphers with Arbitrary Finite Domains (J. Black, P. Rogaway, 2002; "cycle-walking"),
        https://doi.org/10.1007/3-540-45760-7_9

    Args:
        size: n, at least 1.
        seed: selects the permutation.

    Example:
        >>> sorted(Shuffle(5, seed=0)[np.arange(5)].tolist())
        [0, 1, 2, 3, 4]
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self._half = np.uint64(max(1, -(-(size - 1).bit_length() // 2)))
        self._mask = np.uint64((1 << int(self._half)) - 1)
        self._keys = np.random.SeedSequence(seed).generate_state(_ROUNDS, np.uint64)

    def __getitem__(self, places: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The numbers at some places of the order."""
        found = self._once(places.astype(np.uint64))
        while (outside := found >= self.size).any():
            found[outside] = self._once(found[outside])
        return found.astype(np.int64)

    def _once(self, values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        left, right = values >> self._half, values & self._mask
        for key in self._keys:
            left, right = right, left ^ (_mixed(right + key) & self._mask)
        return (left << self._half) | right


def _mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """A hash of each number: the last step of splitmix64."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
