"""Rows of data, converted for the programs: one class, half of it documentation."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor

from pvae._seeds import named_seed
from pvae._validation import at_least
from pvae.data import checks

__all__ = ["Rows", "seen"]

BINARIZATIONS = ("none", "dynamic", "static", "threshold")
_NAN = float("nan")


class Rows:
    """N rows of data, stored in their smallest type and converted for the programs.

    x of uint8 or bool is stored unchanged and converted to float32 in [0, 1], x / (levels - 1).
    Floats, other integers and the other arguments are not converted. Tensors are not copied. Slices
    and tensors of indices select rows: `rows[:100]`.

    Binarized rows are 0 or 1, float32. "static" draws once, here, from Bernoulli(grey level);
    "dynamic" draws anew in each batch with a generator, and equals "static" without one;
    "threshold" is grey level > 0.5. Data of 0 and 1 are rejected unless binarize is "none", so that
    no configuration names a draw without effect.

    References:
        On the Quantitative Analysis of Deep Belief Networks (R. Salakhutdinov, I. Murray, 2008;
        binarization by draws), https://doi.org/10.1145/1390156.1390266

    Args:
        x: first argument of the programs, (N, *x_shape).
        more: further arguments of the programs, each (N, ...).
        labels: integers, (N,), for plots and probes; they are not passed to the programs.
        levels: number of grey levels of uint8 x, 2 to 256 (default: 2 if x contains only 0 and 1,
            and 256 otherwise).
        missing: what is missing of x: None for nothing, "nan" for cells that are NaN, or a bool
            tensor of the shape of x, True where a value is missing. The programs get NaN there,
            unless `fit`, `elbo`, ... marginalize.
        binarize: "none", "dynamic", "static" or "threshold".
        seed: seed of the "static" draw, and of "dynamic" without a generator.

    Raises:
        ValueError: if there are no rows, lengths differ, values are NaN or infinite (the message
            lists the rows), the levels do not fit x, or data without grey levels are to be
            binarized: floats outside [0, 1], wide integers, or data of 0 and 1.
        TypeError: if labels are not integers.

    Example:
        >>> x = torch.tensor([[0, 255], [51, 0], [0, 0]], dtype=torch.uint8)
        >>> data = Rows(x)
        >>> len(data), data.x_shape, data.levels
        (3, (2,), 256)
        >>> for (batch,) in data.batches(2):
        ...     print(batch.tolist())
        [[0.0, 1.0], [0.20000000298023224, 0.0]]
        [[0.0, 0.0]]
    """

    def __init__(
        self,
        x: Tensor,
        *more: Tensor,
        labels: Tensor | None = None,
        levels: int | None = None,
        missing: Tensor | str | None = None,
        binarize: str = "none",
        seed: int = 0,
    ) -> None:
        checks.check_dense((x, *more))
        x, self._holes = checks.without_holes(x, missing)
        if binarize not in BINARIZATIONS:
            raise ValueError(
                f"unknown binarize {binarize!r}: give one of {', '.join(BINARIZATIONS)}"
            )
        checks.check_arguments((x, *more), labels)
        self._x = x.detach()
        self._more = tuple(argument.detach() for argument in more)
        self._levels = checks.levels_of(self._x, levels)
        self._seed = seed
        self._once: Tensor | None = None
        self.labels = None if labels is None else labels.long()
        self._labels_at: int | None = None  # among `more`, if they are an argument
        self.binarize = binarize
        if binarize != "none":
            checks.check_grey(self._x, self._levels)
        if binarize == "static":
            self._x, self._levels = self._drawn_once(), 2
        elif binarize == "threshold":
            self._x, self._levels = (seen(self._x, self._levels) > 0.5).to(torch.uint8), 2

    def __len__(self) -> int:
        return len(self._x)

    def __repr__(self) -> str:
        return (
            f"Rows({len(self)} of {self.x_shape}, levels={self.levels}, binarize={self.binarize!r})"
        )

    @property
    def x_shape(self) -> tuple[int, ...]:
        """Shape of one row of x."""
        return tuple(self._x.shape[1:])

    @property
    def levels(self) -> int | None:
        """Number of grey levels: 2 if binary; None if the data are not grey levels."""
        return 2 if self.binarize == "dynamic" else self._levels

    @property
    def missing(self) -> Tensor | None:
        """Bool of the shape of x, True where a value is missing; None if nothing can be."""
        return self._holes

    @property
    def device(self) -> torch.device:
        """The device of the rows and of batches."""
        return self._x.device

    def sha256(self) -> str:
        """The digest of all rows, arguments and labels, as they are stored.

        Example:
            >>> Rows(torch.zeros(2, 3)).sha256() == Rows(torch.ones(2, 3)).sha256()
            False
        """
        digest = hashlib.sha256()
        for part in (self._x, *self._more, self.labels, self._holes):
            if part is not None:
                digest.update(f"{part.dtype} {tuple(part.shape)}".encode())
                digest.update(part.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def to(self, device: torch.device | str) -> Rows:
        """The same rows on another device."""
        moved = copy.copy(self)
        moved._x = self._x.to(device)
        moved._more = tuple(argument.to(device) for argument in self._more)
        moved._once = None if self._once is None else self._once.to(device)
        moved._holes = None if self._holes is None else self._holes.to(device)
        moved.labels = None if self.labels is None else self.labels.to(device)
        return moved

    def with_labels(self, number: int | None = None, *, seed: int = 0) -> Rows:
        """The same rows with the labels, int64 (N,), as last argument of the programs.

        Args:
            number: how many labels are kept, balanced by class; the others are -1, "unknown"
                (default: all).
            seed: seed of their choice.

        Raises:
            ValueError: if there are no labels, or not as many.
        """
        if self.labels is None:
            raise ValueError(
                "the data have no labels: give Rows(..., labels=...), or leave labels out"
            )
        labelled = copy.copy(self)
        given = self.labels if number is None else self._few_labels(number, seed)
        labelled._more, labelled._labels_at = (*self._more, given), len(self._more)
        return labelled

    def without_labels(self) -> Rows:
        """The same rows with -1, "unknown", for labels that are an argument of the programs."""
        if self._labels_at is None:
            return self
        hidden, at = copy.copy(self), self._labels_at
        unknown = torch.full_like(self._more[at], -1)
        hidden._more = (*self._more[:at], unknown, *self._more[at + 1 :])
        return hidden

    def with_index(self) -> Rows:
        """The same rows with their numbers, int64 (N,), as last argument of a batch.

        `fit` passes them on as `index` to guides and objectives that name it.
        """
        numbered = copy.copy(self)
        numbered._more = (*self._more, torch.arange(len(self), device=self.device))
        return numbered

    def _few_labels(self, number: int, seed: int) -> Tensor:
        assert self.labels is not None
        at_least(0, labels=number)
        if number > len(self):
            raise ValueError(f"labels={number}, and there are {len(self)} rows: give fewer")
        generator = torch.Generator().manual_seed(named_seed(seed, "labels"))
        order = torch.randperm(len(self), generator=generator)
        by_class = self.labels.cpu()[order]
        # The rank of each row within its class: the lowest ranks of all classes come first.
        rank = torch.zeros_like(by_class)
        for value in by_class.unique():
            of_class = by_class == value
            rank[of_class] = torch.arange(int(of_class.sum()))
        kept = order[rank.argsort(stable=True)[:number]]
        known = torch.full_like(by_class, -1)
        known[kept] = self.labels.cpu()[kept]
        return known.to(self.labels.device)

    def arguments(
        self, index: Tensor | slice, generator: torch.Generator | None = None
    ) -> tuple[Tensor, ...]:
        """(x, *more) of several rows, converted for the programs.

        Args:
            index: which rows: a slice, or a tensor of row numbers or of bool on `device`.
            generator: for dynamic binarization, on `device`; without it, every call returns the
                same values.
        """
        x = self._seen(index, generator)
        if self._holes is not None:
            x = x.masked_fill(self._holes[index], _NAN)
        return (x, *(_chosen(argument, index) for argument in self._more))

    def __getitem__(self, index: slice | Tensor) -> Rows:
        """Select rows without changing their values.

        Args:
            index: a slice, or a tensor of row numbers or of bool on `device`.

        Raises:
            TypeError: if `index` is a single integer.
            ValueError: if no row is selected.

        Example:
            >>> data = Rows(torch.zeros(10, 3), labels=torch.arange(10))
            >>> data[:4].labels
            tensor([0, 1, 2, 3])
        """
        if not isinstance(index, slice | Tensor) or (isinstance(index, Tensor) and not index.dim()):
            raise TypeError(
                f"rows are selected by a slice or a tensor, not by {index!r}: for one row give "
                "rows[i : i + 1]"
            )
        if self.binarize == "dynamic" and self._once is None:
            self._once = self._drawn_once()  # for all rows, so that each keeps its value
        chosen = copy.copy(self)
        chosen._x = self._x[index]
        if len(chosen._x) == 0:
            raise ValueError(f"{index} selects none of {len(self)} rows: give at least one")
        chosen._more = tuple(argument[index] for argument in self._more)
        chosen._once = None if self._once is None else self._once[index]
        chosen._holes = None if self._holes is None else self._holes[index]
        chosen.labels = None if self.labels is None else self.labels[index]
        return chosen

    def first(self, n: int) -> tuple[Tensor, ...]:
        """(x, *more) of the first n rows, or of all rows if there are fewer."""
        return self.arguments(slice(0, n))

    def batches(
        self, batch_size: int, *, generator: torch.Generator | None = None
    ) -> Iterator[tuple[Tensor, ...]]:
        """Iterate once over all rows; the last batch may be smaller.

        Args:
            batch_size: rows per batch, at least 1.
            generator: on `device`, for the order of the rows, unless one batch holds them all, and
                for dynamic binarization; without it, rows are in order and have the same values
                every time.
        """
        at_least(1, batch_size=batch_size)
        if generator is None:
            for start in range(0, len(self), batch_size):
                yield self.arguments(slice(start, start + batch_size))
        else:
            for index in self.order(generator, batch_size).split(batch_size):
                yield self.arguments(index, generator)

    def order(self, generator: torch.Generator, batch_size: int) -> Tensor:
        """The order of the rows that `batches` draws first, int64 (N,).

        A batch of all rows has them in order: a guide may have parameters for each place in it.
        """
        if batch_size >= len(self):
            return torch.arange(len(self), device=self.device)
        return torch.randperm(len(self), generator=generator, device=self.device)

    def _seen(self, index: Tensor | slice, generator: torch.Generator | None) -> Tensor:
        if self.binarize != "dynamic":
            return seen(_chosen(self._x, index), self._levels)
        if generator is not None:
            return _drawn(seen(_chosen(self._x, index), self._levels), generator)
        if self._once is None:
            self._once = self._drawn_once()
        return self._once[index].float()

    def _drawn_once(self) -> Tensor:
        # On the CPU, so that the draw is the same on any device; in parts, so that grey levels in
        # float32 never exist for all rows at once.
        generator = torch.Generator().manual_seed(named_seed(self._seed, "binarization"))
        drawn = [
            torch.bernoulli(seen(part.cpu(), self._levels), generator=generator).to(torch.uint8)
            for part in self._x.split(4096)
        ]
        return torch.cat(drawn).to(self.device)


def _chosen(x: Tensor, index: Tensor | slice) -> Tensor:
    """x[index], in a fraction of the time for row numbers on a CPU."""
    if isinstance(index, slice) or index.is_cuda or index.dtype != torch.int64 or index.dim() != 1:
        return x[index]
    return x.index_select(0, index)


def _drawn(probability: Tensor, generator: torch.Generator) -> Tensor:
    """1 with these probabilities, and 0 otherwise, float32."""
    if probability.is_cuda:
        return torch.bernoulli(probability, generator=generator).float()
    # The same to 2^-24 as torch.bernoulli, which takes two to four times as long on a CPU.
    uniform = torch.rand(probability.shape, generator=generator, device=probability.device)
    return torch.lt(uniform, probability, out=uniform)


def seen(x: Tensor, levels: int | None) -> Tensor:
    """Convert stored x for the programs: uint8 and bool to float32 in [0, 1]."""
    if x.dtype == torch.bool:
        return x.float()
    if x.dtype == torch.uint8:
        return x.float() if levels is None or levels == 2 else x.float().div_(levels - 1)
    return x
