"""Load a data set by its name or from a file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from pvae._validation import nearest
from pvae.data.catalogue import SETS
from pvae.data.columns import Column, columns_of
from pvae.data.conversion import Arrays
from pvae.data.files import MORE, SPLITS, SUFFIXES, read_file
from pvae.data.splits import Splits, tensor_of
from pvae.data.table import Rows

__all__ = ["load", "names"]

names: tuple[str, ...] = tuple(SETS)

HELD_OUT_SEEDS = {"valid": 1, "test": 2}


def load(
    name: str | os.PathLike[str],
    *,
    binarize: str = "none",
    labels: bool | int = False,
    missing: str | None = None,
    seed: int = 0,
    valid: int | None = None,
) -> Splits:
    """Load the splits of a named data set or of a file.

    | name | rows | splits | labels |
    | --- | --- | --- | --- |
    | digits | 8x8, 17 grey levels | 80 / 10 / 10 percent of 1,797, fixed, of every class | digit |
    | mnist | 28x28, 256 levels | 60,000 / - / 10,000 | digit |
    | fashion-mnist | 28x28, 256 levels | 60,000 / - / 10,000 | kind of clothes |
    | binarized-mnist | 28x28, binary | 50,000 / 10,000 / 10,000 | digit, in $PVAE_DATA only |
    | omniglot | 28x28, 256 levels | 24,345 / - / 8,115 | alphabet |
    | frey-faces | 28x20, 256 levels | 1,565 / 200 / 200, in the order of the video | none |
    | jsb-chorales | 160x88, binary, and lengths | 229 / 76 / 77 chorales | none |
    | adult | 12 columns, with holes | 32,561 / - / - | none |
    | wine | 13 columns | 6,497 / - / - | none |
    | breast | 10 columns, with holes | 699 / - / - | none |

    Rows keep the order of the published files: the test rows of binarized-mnist are sorted by
    digit, and those of omniglot by character.

    omniglot is **not** the file of Burda et al. (2015) that papers report on: it is converted from
    the original drawings, with the exact mean of the source pixels in each of 28x28 cells; drawers
    1 to 15 are for training and 16 to 20 for testing. Its log-likelihoods cannot be compared with
    published ones.

    Files of named sets are read from $PVAE_DATA or the cache ($PVAE_CACHE, or the cache folder of
    the system), and downloaded to the cache otherwise; digits needs no file, and frey-faces,
    jsb-chorales and the tables are never downloaded. Checksums are always verified.

    Chorales are piano rolls, a step per quarter note, of 88 notes from A0 up; their numbers of
    steps, int64, are the second argument of the programs, and zeros follow a chorale's end.

    A file is an `.npz` with the arrays train (needed), valid, test, train_labels, valid_labels,
    test_labels, and the same with _lengths for further arguments; or an `.npy` with training rows.
    Values become float32: arrays of 0 and 1 are unchanged, other uint8 arrays are divided by 255,
    and all others are unchanged.

    A table is an `.npz` with train (or data), (rows, columns), NaN where a value is missing, kind,
    a name for each column ("real"; "pos", 0 or more; "count"; "cat", classes; "ordinal", ordered
    classes), and optionally classes, their numbers by column, 0 for numbers. Classes are numbered
    from 0 or from 1.

    References:
        "Gradient-based learning applied to document recognition", LeCun, Bottou, Bengio and
        Haffner, 1998, https://doi.org/10.1109/5.726791 (mnist)
        "Fashion-MNIST: a novel image dataset for benchmarking machine learning algorithms", Xiao,
        Rasul and Vollgraf, 2017, https://arxiv.org/abs/1708.07747
        "The Neural Autoregressive Distribution Estimator", Larochelle and Murray, 2011,
        https://proceedings.mlr.press/v15/larochelle11a.html (binarized-mnist)
        "Human-level concept learning through probabilistic program induction", Lake,
        Salakhutdinov and Tenenbaum, 2015, https://doi.org/10.1126/science.aab3050 (omniglot)
        "Modeling Temporal Dependencies in High-Dimensional Sequences", Boulanger-Lewandowski,
        Bengio and Vincent, 2012, https://arxiv.org/abs/1206.6392 (jsb-chorales)
        "Handling Incomplete Heterogeneous Data using VAEs", Nazabal, Olmos, Ghahramani and Valera,
        2018, https://arxiv.org/abs/1807.03653 (the kinds of columns of the tables)

    Args:
        name: one of `pvae.data.names`, or a path that ends in .npz or .npy.
        binarize: "none", "dynamic", "static" or "threshold", as in `Rows`; held-out splits of
            "dynamic" are drawn once. Rejected for binary data.
        labels: whether the labels are the last argument of the programs, int64; as a number, how
            many labels of training rows are kept, balanced by class and chosen by the seed. All
            others, and those of held-out rows, are then -1, "unknown".
        missing: "nan" if NaN means that a value is missing, as in `Rows`; otherwise NaN is
            rejected.
        seed: seed of the training split's "static" draw; held-out splits always use the same seed,
            so that runs with different seeds are evaluated on the same data.
        valid: number of last training rows to use as validation split, such as 10,000 for mnist;
            for sets without one whose rows are not sorted.

    Raises:
        ValueError: if the name is unknown, `Rows` rejects the data, splits differ in shape, or the
            data do not allow an option.
        DamagedFileError: if a file is damaged.
        OSError: if a file is missing, or cannot be downloaded (`DownloadError`).

    Example:
        >>> load("digits").x_shape
        (8, 8)
        >>> load("digits", labels=True, binarize="dynamic").test
        Rows(176 of (8, 8), levels=2, binarize='static')
    """
    path = Path(name).expanduser()
    if path.suffix.lower() in SUFFIXES:
        arrays, levels = read_file(path)
        return _data_set(
            str(name), arrays, levels, binarize=binarize, labels=labels, missing=missing,
            seed=seed, valid=valid,
        )  # fmt: skip
    if name not in SETS:
        raise ValueError(_unknown(str(name), path))
    named = SETS[str(name)]
    if valid and named.sorted_rows:
        raise ValueError(
            f"valid={valid}: the rows of {name} are sorted by class, so the last ones are not a "
            "random sample; leave it out, or save your own split as .npz"
        )
    arrays = named.read(named.originals)
    levels = None if named.table else named.levels
    return _data_set(
        str(name), arrays, levels, binarize=binarize, labels=labels, missing=missing, seed=seed,
        valid=valid,
    )  # fmt: skip


def _data_set(
    name: str,
    arrays: Arrays,
    levels: int | None,
    *,
    binarize: str,
    labels: bool | int,
    missing: str | None,
    seed: int,
    valid: int | None,
) -> Splits:
    columns = _columns(name, arrays)
    arrays = _held_out(name, arrays, valid) if valid else arrays
    splits: dict[str, Rows] = {}
    for split in SPLITS:
        if split not in arrays:
            continue
        if arrays[split].shape[1:] != arrays["train"].shape[1:]:
            raise ValueError(
                f"{name}: rows of {split!r} have shape {arrays[split].shape[1:]} and those of "
                f"'train' {arrays['train'].shape[1:]}: all splits must have one shape"
            )
        of_labels = arrays.get(f"{split}_labels")
        more = [arrays[f"{split}_{of}"] for of in MORE if f"{split}_{of}" in arrays]
        how = "static" if binarize == "dynamic" and split != "train" else binarize
        try:
            rows = Rows(
                tensor_of(arrays[split]),
                *map(tensor_of, more),
                labels=None if of_labels is None else tensor_of(of_labels),
                levels=levels,
                missing=missing,
                binarize=how,
                seed=HELD_OUT_SEEDS.get(split, seed),
            )
            if labels is not False:
                few = None if labels is True else labels if split == "train" else 0
                rows = rows.with_labels(few, seed=seed)
            splits[split] = rows
        except ValueError as error:
            raise ValueError(f"{name}, split {split!r}: {error}") from error
    return Splits(name, splits["train"], splits.get("valid"), splits.get("test"), columns)


def _columns(name: str, arrays: Arrays) -> tuple[Column, ...] | None:
    if "kind" not in arrays:
        return None
    classes = arrays["classes"].tolist() if "classes" in arrays else None
    try:
        return columns_of(arrays["train"].astype(np.float64), arrays["kind"].tolist(), classes)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _held_out(name: str, arrays: Arrays, valid: int) -> Arrays:
    """Use the last training rows as validation split."""
    size = len(arrays["train"])
    if "valid" in arrays:
        raise ValueError(f"valid={valid}: {name} has a validation split already; leave it out")
    if not 0 < valid < size:
        raise ValueError(f"valid={valid}: {name} has {size} training rows; give 1 to {size - 1}")
    changed = dict(arrays)
    for of in ("", "_labels", *(f"_{of}" for of in MORE)):
        if f"train{of}" in arrays:
            changed[f"train{of}"] = arrays[f"train{of}"][:-valid]
            changed[f"valid{of}"] = arrays[f"train{of}"][-valid:]
    return changed


def _unknown(name: str, path: Path) -> str:
    if path.exists():
        return f"{name} is neither .npz nor .npy: save the rows with np.savez(path, train=x)"
    known = nearest(name, names)
    return f"unknown data set {name!r}; {known}; a file of your own ends in .npz or .npy"
