"""Figures of rows of images: interpolations, traversals, samples by label, imputations."""

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pvae.plots.pictures import GAP, curves, images, mosaic, show

__all__ = ["by_label", "imputations", "interpolations", "traversals"]


def interpolations(x: Tensor, *, n: int = 8) -> Figure:
    """Means of p(x | z) on lines between codes, one row for each line.

    Args:
        x: what `pvae.interpolate` returns, shape (num_steps, rows, ...).
        n: largest number of lines.

    Example:
        >>> figure = interpolations(torch.rand(10, 4, 8, 8))
        >>> figure.axes[0].get_title()
        'interpolations between codes'
    """
    return _rows(x[:, :n].movedim(1, 0), None, "interpolations between codes")


def traversals(
    x: Tensor, values: Sequence[float] | None = None, *, names: Sequence[str] | None = None
) -> Figure:
    """Means of p(x | z) as single latent variables change, one row for each.

    Args:
        x: shape (variables, steps, ...).
        values: the value of the variable at each step, for the title.
        names: of the variables.

    Example:
        >>> figure = traversals(torch.rand(4, 9, 8, 8), names=["z1", "z2", "z3", "z4"])
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
        ['z1', 'z2', 'z3', 'z4']
    """
    span = "" if values is None else f" from {values[0]:g} to {values[-1]:g}"
    return _rows(x, names, f"one latent variable at a time{span}")


def by_label(x: Tensor, labels: Sequence[object], *, title: str = "samples by label") -> Figure:
    """Data drawn given labels, one row for each label.

    Args:
        x: shape (labels, draws, ...).
        labels: the label of each row.
        title: of the figure.

    Example:
        >>> figure = by_label(torch.rand(3, 8, 8, 8), labels=[0, 1, 2])
        >>> figure.axes[0].get_title()
        'samples by label'
    """
    return _rows(x, [str(label) for label in labels], title)


def imputations(x: Tensor, missing: Tensor, draws: Tensor, *, n: int = 12) -> Figure:
    """Data with holes over several draws of what is missing.

    Args:
        x: shape (rows, ...).
        missing: bool of the same shape, True where a value is missing; drawn grey.
        draws: of `pvae.impute`, shape (num_samples, rows, ...).
        n: largest number of data.

    Example:
        >>> x, missing = torch.rand(5, 8, 8), torch.rand(5, 8, 8) < 0.5
        >>> figure = imputations(x, missing, torch.rand(3, 5, 8, 8))
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
        ['data', 'draw 1', 'draw 2', 'draw 3']
    """
    seen = x.float().cpu().masked_fill(missing.cpu(), 0)
    grey = 0.4 * (seen.min() + seen.max()).item()
    holes = seen.masked_fill(missing.cpu(), grey)[:n]
    several = [holes, *draws[:3, :n].float().cpu()]
    names = ["data", *(f"draw {i + 1}" for i in range(len(several) - 1))]
    return _rows(torch.stack(several), names, "data with missing values over draws of them")


def _rows(x: Tensor, names: Sequence[str] | None, title: str) -> Figure:
    """Images in rows with names, or curves if the data are no images; x is (rows, columns, ...)."""
    rows, columns = x.shape[:2]
    pictures = images(x.flatten(0, 1))
    if pictures.dim() == 2:
        return curves(pictures.reshape(rows, columns, -1)[:2], names or ("", ""), title)
    sheet = mosaic(pictures, columns)
    width, left = 0.5 * columns, 0.2 if names is None else 0.9
    height = width * sheet.shape[0] / sheet.shape[1]
    figure = Figure(figsize=(width + left + 0.1, height + 0.4))
    across, down = figure.get_size_inches()
    axes = figure.add_axes((left / across, 0.05 / down, width / across, height / down))
    show(axes, sheet, pictures[~torch.isnan(pictures.flatten(1)).any(1)])
    if names is not None:
        side = pictures.shape[-2] + GAP
        axes.set_yticks([i * side + (side - 2 * GAP) / 2 for i in range(rows)], list(names))
        axes.tick_params(left=False)
        axes.get_yaxis().set_visible(True)
    axes.set_title(title, fontsize=10)
    return figure
