"""Figures: learning curve, reconstructions, samples, latent means, the 2-D manifold."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from torch import Tensor

__all__ = [
    "GAP",
    "curves",
    "images",
    "is_image",
    "latent_means",
    "learning_curve",
    "manifold",
    "mosaic",
    "prior_samples",
    "reconstructions",
    "show",
]

Pixels = npt.NDArray[np.float32]
Codes = npt.NDArray[np.float64]

_TRAIN, _VALID, _INK = "#1f77b4", "#d62728", "#444444"
GAP, _SMALL = 1, 16  # pixels: between pictures, and a side of those that need it
_LEGEND = 12  # classes, at most, that are told apart by colour and named


def learning_curve(
    history: Sequence[Mapping[str, object]], *, best_epoch: int | None = None
) -> Figure:
    """The bound over epochs, in nats per datum; higher is better.

    Args:
        history: one row per epoch, with "epoch", "train_loss" and, with validation, "valid_elbo".
        best_epoch: the epoch whose parameters were kept, which a vertical line marks.

    Returns:
        A figure with one curve for training and one for validation, each through the epochs in
        which it was measured.

    Example:
        >>> rows = [{"epoch": 1, "train_loss": 90.0}, {"epoch": 2, "train_loss": 80.0}]
        >>> learning_curve(rows).axes[0].get_ylabel()
        'bound (nats per datum)'
    """
    epochs = np.array([int(str(row["epoch"])) for row in history])
    held_out = [row.get("valid_elbo") for row in history]
    curves = {
        "training": np.array([-float(str(row["train_loss"])) for row in history]),
        "validation": np.array([math.nan if v is None else float(str(v)) for v in held_out]),
    }
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    for (name, values), colour in zip(curves.items(), (_TRAIN, _VALID), strict=True):
        # Validation may skip epochs: a line through NaN would have no segment left to draw.
        here = np.isfinite(values)
        if here.any():
            marker = "o" if here.sum() < 20 else None
            axes.plot(epochs[here], values[here], color=colour, marker=marker, ms=3.5, label=name)
    finite = np.concatenate([values[np.isfinite(values)] for values in curves.values()])
    if len(finite) > 6:
        # The first epochs, far below, would flatten what is of interest.
        low = np.quantile(finite, 0.1) - 0.5 * (finite.max() - np.quantile(finite, 0.1))
        top = finite.max() + 0.05 * (finite.max() - low)
        axes.set_ylim(max(low, finite.min() - 0.05 * (top - low)), top)
    axes.set(xlabel="epoch", ylabel="bound (nats per datum)", title="learning curve")
    if best_epoch is not None:
        label = f"epoch {best_epoch}, kept"
        axes.axvline(best_epoch, color=_INK, lw=1, ls="--", label=label, zorder=0)
    if len(epochs) == 1:  # no width of its own, which would give ticks at fractions
        axes.set_xlim(epochs[0] - 1, epochs[0] + 1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.spines[["top", "right"]].set_visible(False)
    if len(finite):
        axes.legend(frameon=False, loc="best")
    return figure


def reconstructions(
    originals: Tensor, reconstructed: Tensor, *, n: int = 12, labels: Tensor | None = None
) -> Figure:
    """Originals in the upper row, their reconstructions below.

    Args:
        originals: shape (rows, height, width), (rows, channels, height, width), or (rows, numbers),
            drawn as images if the numbers fill a square, and as curves otherwise.
        reconstructed: their reconstructions, of the same shape.
        n: largest number of data.
        labels: shape (rows,), printed above images.

    Returns:
        The figure, on the scale of the originals.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> x = torch.rand(20, 8, 8)
        >>> figure = reconstructions(x, x, n=6)
        >>> figure.savefig("reconstructions.png")  # doctest: +SKIP
    """
    upper, lower = images(originals[:n]), images(reconstructed[:n])
    if upper.shape != lower.shape:
        raise ValueError(
            f"originals of shape {tuple(originals.shape)} and reconstructions of shape "
            f"{tuple(reconstructed.shape)}: give both in one shape, row by row"
        )
    both = torch.stack((upper, lower))
    names = ("data", "reconstructed")
    if both.dim() == 3:
        return curves(both, names, "reconstructions")
    sheet = mosaic(both.flatten(0, 1), columns=both.shape[1])
    # Placed by hand: the automatic layout cuts the labels off beside axes of a fixed aspect.
    width, left, margin, title = 0.6 * both.shape[1], 1.1, 0.06, 0.3
    height = width * sheet.shape[0] / sheet.shape[1]
    across, down = left + width + margin, height + 2 * margin + title
    figure = Figure(figsize=(across, down))
    axes = figure.add_axes((left / across, margin / down, width / across, height / down))
    show(axes, sheet, both[0])
    middle = (both.shape[-2] - 1) / 2
    axes.set_yticks([middle, middle + both.shape[-2] + GAP], names)
    axes.tick_params(left=False)
    axes.get_yaxis().set_visible(True)
    axes.set_title("data over their reconstructions", fontsize=10)
    _label_tiles(axes, labels, both.shape[1], both.shape[1], both.shape[-2:])
    return figure


def prior_samples(
    x: Tensor, *, n: int = 64, labels: Tensor | None = None, title: str = "samples from the prior"
) -> Figure:
    """Data that a model generates, in a grid.

    Args:
        x: draws from p(x), or means of p(x | z) at draws from p(z); shape (rows, height, width),
            (rows, channels, height, width), or (rows, numbers).
        n: largest number of draws.
        labels: shape (rows,), what a conditional model was given, printed on images.
        title: says which of the two x are.

    Example:
        >>> figure = prior_samples(torch.rand(64, 8, 8), title="draws from p(x)")
        >>> figure.axes[0].get_title()
        'draws from p(x)'
    """
    x = images(x[:n])
    if x.dim() == 2:
        return curves(x[None, :12], ("drawn",), title)
    columns = math.ceil(math.sqrt(len(x)))
    sheet = mosaic(x, columns=columns)
    height = 4 * sheet.shape[0] / sheet.shape[1] + 0.3
    figure = Figure(figsize=(4, height), layout="constrained")
    axes = figure.subplots()
    show(axes, sheet, x)
    axes.set_title(title, fontsize=10)
    _label_tiles(axes, labels, len(x), columns, x.shape[-2:])
    return figure


def latent_means(z: Tensor, labels: Tensor | None = None) -> Figure:
    """The data in the latent space.

    Args:
        z: latent codes, shape (rows, z_dim). One dimension is drawn as a histogram; of more than
            two, the first two principal components are drawn.
        labels: integers, shape (rows,), which colour the points: a legend names up to 12 of them, a
            colour bar shows more.

    Example:
        >>> figure = latent_means(torch.randn(100, 2), torch.arange(100) % 10)
        >>> figure.axes[0].get_xlabel()
        '$z_1$'
    """
    codes = z.detach().cpu().double().numpy()
    classes = np.zeros(len(codes), int) if labels is None else labels.detach().cpu().numpy()
    kinds, kind = np.unique(classes, return_inverse=True)
    few = len(kinds) <= _LEGEND
    colours = _colours(len(kinds) if few else 1)
    figure = Figure(figsize=(5, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    if codes.shape[1] == 1:
        groups = [codes[kind == k, 0] for k in range(len(kinds))] if few else [codes[:, 0]]
        axes.hist(groups, bins=50, stacked=True, color=colours)
        axes.set(xlabel="$z_1$", ylabel="number of data")
    else:
        points, names = _plane(codes)
        size = float(np.clip(12000 / len(points), 3, 18))
        colour = [colours[k] for k in kind] if few else classes
        # One collection in the order of the rows: drawn class by class, the last hides the others.
        drawn = axes.scatter(points[:, 0], points[:, 1], s=size, c=colour, alpha=0.8, lw=0)
        axes.set(xlabel=names[0], ylabel=names[1])
        axes.set_aspect("equal", "datalim")
        if not few:
            figure.colorbar(drawn, ax=axes, label="label")
    if few and labels is not None:
        keys = [
            Line2D([], [], marker="o", ls="", ms=5, color=key, label=str(name))
            for name, key in zip(kinds.tolist(), colours, strict=True)
        ]
        axes.legend(handles=keys, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.set_title("means of q(z | x)", fontsize=10)
    return figure


def manifold(
    decode: Callable[[Tensor], Tensor], *, n: int = 16, title: str = "means of p(x | z)"
) -> Figure:
    """The data over a 2-D latent space, on a grid of quantiles of the Gaussian prior.

    References:
        Auto-Encoding Variational Bayes (D. P. Kingma, M. Welling, 2013; figure 4),
        https://arxiv.org/abs/1312.6114

    Args:
        decode: from latent codes, shape (n * n, 2), to data, shape (n * n, height, width) or
            (n * n, channels, height, width). The codes run through the rows of the picture from
            the top: z1 increases to the right, z2 upwards.
        n: images per side.
        title: title of the figure.

    Returns:
        A mosaic, with gaps between small images; the axes show values of z.

    Raises:
        ValueError: if `decode` does not return n * n images.

    Example:
        >>> figure = manifold(lambda z: torch.sigmoid(z.sum(1))[:, None, None].expand(-1, 8, 8))
        >>> figure.axes[0].get_ylabel()
        '$z_2$'
    """
    probabilities = (torch.arange(n, dtype=torch.float32) + 0.5) / n
    values = torch.distributions.Normal(0.0, 1.0).icdf(probabilities)
    up, right = torch.meshgrid(values.flip(0), values, indexing="ij")
    decoded = decode(torch.stack((right.flatten(), up.flatten()), -1))
    x = images(decoded)
    if x.dim() == 2 or len(x) != n * n:
        raise ValueError(
            f"decode gave shape {tuple(decoded.shape)} for {n * n} codes; expected "
            f"({n * n}, height, width) or ({n * n}, channels, height, width)"
        )
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.subplots()
    gap = GAP if min(x.shape[-2:]) < _SMALL else 0
    show(axes, mosaic(x, n, gap=gap), x)
    axes.set_title(title, fontsize=10)
    marked = sorted({round(i * (n - 1) / 4) for i in range(5)})
    height, width = (size + gap for size in x.shape[-2:])
    for name, axis, size, shown in (
        ("$z_1$", axes.get_xaxis(), width, values),
        ("$z_2$", axes.get_yaxis(), height, values.flip(0)),
    ):
        axis.set_visible(True)
        centres = [(place + 0.5) * size - 0.5 for place in marked]
        axis.set_ticks(centres, [f"{shown[place]:.1f}" for place in marked])
        axis.set_label_text(name)
    return figure


def is_image(x: Tensor) -> bool:
    """Whether data can be drawn as images.

    Args:
        x: shape (rows, ...).

    Example:
        >>> is_image(torch.zeros(5, 64)), is_image(torch.zeros(5, 7))
        (True, False)
    """
    return images(x).dim() > 2


def images(x: Tensor) -> Tensor:
    """Data as (rows, height, width), (rows, channels, height, width), or else (rows, numbers)."""
    x = x.detach().float().cpu()
    if x.dim() == 3 or (x.dim() == 4 and x.shape[1] in (1, 3)):
        return x
    if x.dim() == 2:
        side = math.isqrt(x.shape[1])
        if side >= 4 and side * side == x.shape[1]:
            return x.reshape(-1, side, side)  # a picture that was flattened
    return x.reshape(len(x), -1)


def mosaic(x: Tensor, columns: int, gap: int = GAP) -> Pixels:
    """Images beside each other, NaN between them; shape (height, width) or (height, width, 3)."""
    x = x[:, None] if x.dim() == 3 else x
    count, channels, height, width = x.shape
    rows = math.ceil(count / columns)
    sheet = torch.full(
        (channels, rows * (height + gap) - gap, columns * (width + gap) - gap), math.nan
    )
    for index, image in enumerate(x):
        top, left = (index // columns) * (height + gap), (index % columns) * (width + gap)
        sheet[:, top : top + height, left : left + width] = image
    return np.asarray(sheet[0] if channels == 1 else sheet.movedim(0, -1)[..., :3])


def _label_tiles(
    axes: Axes, labels: Tensor | None, count: int, columns: int, size: Sequence[int]
) -> None:
    """Print the labels of images in the corners of their tiles."""
    if labels is None:
        return
    height, width = (side + GAP for side in size)
    for index, label in enumerate(labels[:count].tolist()):
        row, column = divmod(index, columns)
        axes.text(column * width, row * height, str(label), color=_VALID, fontsize=7, va="top")


def show(axes: Axes, sheet: Pixels, like: Tensor) -> None:
    """Draw a sheet of images on the scale of the data `like`; what lies outside is clipped."""
    low, high = _range(like)
    if sheet.ndim == 3:
        sheet = np.nan_to_num((sheet - low) / (high - low), nan=1.0).clip(0, 1)
    # Strokes on an empty ground are ink on paper; photographs would become negatives.
    strokes = like.mean().item() < low + 0.4 * (high - low)
    cmap = "gray_r" if strokes else "gray"
    axes.imshow(sheet, cmap=cmap, vmin=low, vmax=high, interpolation="nearest")
    axes.get_xaxis().set_visible(False)
    axes.get_yaxis().set_visible(False)
    axes.spines[:].set_visible(False)


def _range(x: Tensor) -> tuple[float, float]:
    """[0, 1] where nearly all of the data lie in it, or else their own range."""
    low, high = x.min().item(), x.max().item()
    if ((x >= -0.05) & (x <= 1.05)).float().mean() > 0.95:
        return 0.0, 1.0  # and a mean beyond, as a Gaussian likelihood may have, is cut off
    return low, high if high > low else low + 1


def curves(groups: Tensor, names: Sequence[str], title: str) -> Figure:
    """Data that are no images, shape (groups, rows, numbers): one panel a row, one line a group."""
    count, numbers = groups.shape[1:]
    columns = min(count, 4)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(1.7 * columns + 0.4, 1.1 * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
    marker = "." if numbers < 12 else None
    for axes in panels[count:]:
        axes.set_visible(False)
    for row, axes in enumerate(panels[:count]):
        for group, name, colour in zip(groups, names, (_INK, _VALID), strict=False):
            axes.plot(group[row].numpy(), color=colour, lw=1, marker=marker, label=name)
        axes.set_xticks([])
        axes.spines[["top", "right"]].set_visible(False)
    if len(names) > 1:
        handles = panels[0].get_lines()
        figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    figure.suptitle(title, fontsize=10)
    return figure


def _plane(codes: Codes) -> tuple[Codes, list[str]]:
    """Two columns to draw of two or more, and the names of the axes."""
    if codes.shape[1] == 2:
        return codes, ["$z_1$", "$z_2$"]
    centred = codes - codes.mean(0)
    variances, directions = np.linalg.eigh(centred.T @ centred)
    share = variances[::-1] / max(variances.sum(), np.finfo(float).tiny)
    names = [f"principal component {i + 1} ({share[i]:.0%} of variance)" for i in range(2)]
    return centred @ directions[:, :-3:-1], names


def _colours(count: int) -> list[tuple[float, float, float, float]]:
    cmap = colormaps["tab10" if count <= 10 else "Paired"]
    return [cmap(i) for i in range(count)]
