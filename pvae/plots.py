"""Figures: learning curves, reconstructions, samples, latent codes, the 2-D manifold."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

__all__ = [
    "is_image",
    "latent_means",
    "learning_curve",
    "manifold",
    "prior_samples",
    "reconstructions",
]

Pixels = npt.NDArray[np.float32]

_TRAIN, _VALID = "#1f77b4", "#d62728"
_GAP = 1


def learning_curve(history: Sequence[Mapping[str, object]]) -> Figure:
    """The bound over epochs, in nats per datum; higher is better.

    Args:
        history: one row an epoch, with "epoch", "train_loss" and, where there is validation,
            "valid_elbo".

    Returns:
        A figure with one curve for training and one for validation.
    """
    epochs = [int(str(row["epoch"])) for row in history]
    curves = {
        "training": [-float(str(row["train_loss"])) for row in history],
        "validation": [
            math.nan if row.get("valid_elbo") is None else float(str(row["valid_elbo"]))
            for row in history
        ],
    }
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    for (name, values), colour in zip(curves.items(), (_TRAIN, _VALID), strict=True):
        if not all(map(math.isnan, values)):
            marker = "o" if len(epochs) < 3 else None
            axes.plot(epochs, values, label=name, color=colour, lw=1.5, marker=marker)
    finite = np.array([v for values in curves.values() for v in values if math.isfinite(v)])
    if len(finite) > 6:
        # The first epochs are far below: they would flatten what is of interest.
        low = np.quantile(finite, 0.1) - 0.5 * (finite.max() - np.quantile(finite, 0.1))
        top = finite.max() + 0.05 * (finite.max() - low)
        axes.set_ylim(max(low, finite.min() - 0.05 * (top - low)), top)
    axes.set_xlabel("epoch")
    axes.set_ylabel("bound (nats per datum)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    return figure


def reconstructions(originals: Tensor, reconstructed: Tensor, *, n: int = 12) -> Figure:
    """Originals in the upper row, their reconstructions below.

    Args:
        originals: shape (rows, height, width), (rows, channels, height, width), or (rows, numbers),
            drawn as pictures where the numbers fill a square, and else as curves.
        reconstructed: of the same shape.
        n: number of data, at most.

    Returns:
        The figure.
    """
    both = torch.stack((_images(originals[:n]), _images(reconstructed[:n])))
    figure = Figure(figsize=(0.7 * both.shape[1] + 1.1, 2.0), layout="constrained")
    if both.dim() == 3:
        _curves(figure, both)
        return figure
    axes = figure.subplots()
    _show(axes, _mosaic(both.flatten(0, 1), columns=both.shape[1]), _range(both[0]))
    height = both.shape[-2] + _GAP
    axes.set_yticks([height / 2, 1.5 * height], ["data", "reconstructed"])
    axes.tick_params(left=False)
    axes.get_yaxis().set_visible(True)
    return figure


def prior_samples(x: Tensor, *, n: int = 64) -> Figure:
    """Data that a model makes up, in a grid: draws, or their means at draws from the prior.

    Args:
        x: shape (rows, height, width), (rows, channels, height, width), or (rows, numbers).
        n: number of draws, at most.

    Returns:
        The figure.
    """
    figure = Figure(figsize=(4, 4), layout="constrained")
    x = _images(x)
    if x.dim() == 2:
        _curves(figure, x[None, :12])
        return figure
    columns = math.ceil(math.sqrt(min(n, len(x))))
    _show(figure.subplots(), _mosaic(x[:n], columns), _range(x))
    return figure


def latent_means(z: Tensor, labels: Tensor | None = None) -> Figure:
    """Where the data lie in the latent space.

    Args:
        z: latent codes, shape (rows, z_dim); of more than two dimensions the first two principal
            components are drawn.
        labels: integers, shape (rows,), which colour the points.

    Returns:
        The figure.
    """
    codes = z.detach().double().numpy()
    names = [f"$z_{{{i + 1}}}$" for i in range(2)]
    if codes.shape[1] > 2:
        centred = codes - codes.mean(0)
        _, spread, directions = np.linalg.svd(centred, full_matrices=False)
        codes = centred @ directions[:2].T
        share = spread**2 / (spread**2).sum()
        names = [f"principal component {i + 1} ({share[i]:.0%} of variance)" for i in range(2)]
    elif codes.shape[1] == 1:
        codes = np.column_stack([codes[:, 0], np.zeros(len(codes))])
        names = ["$z_1$", ""]
    figure = Figure(figsize=(5, 4.2), layout="constrained")
    axes = figure.subplots()
    size = float(np.clip(3000 / len(codes), 2, 18))
    if labels is None:
        axes.scatter(codes[:, 0], codes[:, 1], s=size, color=_TRAIN, alpha=0.6, lw=0)
    else:
        kinds = np.unique(labels.numpy())
        colours = _colours(len(kinds))
        for kind, colour in zip(kinds, colours, strict=True):
            here = labels.numpy() == kind
            label = str(kind) if len(kinds) <= 12 else None
            axes.scatter(
                codes[here, 0], codes[here, 1], s=size, color=colour, label=label, alpha=0.75, lw=0
            )
        if len(kinds) <= 12:
            axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), markerscale=2)
    axes.set_xlabel(names[0])
    axes.set_ylabel(names[1])
    axes.set_aspect("equal", "datalim")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def manifold(decode: Callable[[Tensor], Tensor], *, n: int = 16) -> Figure:
    """The data over a 2-D latent space, through the inverse Gaussian CDF.

    References:
        Auto-Encoding Variational Bayes (D. P. Kingma, M. Welling, 2013; figure 4),
        https://arxiv.org/abs/1312.6114

    Args:
        decode: from latent codes, shape (n * n, 2), to data, shape (n * n, height, width) or
            (n * n, channels, height, width). The codes run through the rows of the picture from
            the top: z1 grows to the right, z2 grows upwards.
        n: pictures a side.

    Returns:
        A mosaic without gaps.
    """
    probabilities = (torch.arange(n, dtype=torch.float32) + 0.5) / n
    values = torch.distributions.Normal(0.0, 1.0).icdf(probabilities)
    up, right = torch.meshgrid(values.flip(0), values, indexing="ij")
    x = _images(decode(torch.stack((right.flatten(), up.flatten()), -1)))
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.subplots()
    _show(axes, _mosaic(x, n, gap=0), _range(x))
    axes.set_xlabel("$z_1$, by quantile of the prior")
    axes.set_ylabel("$z_2$, by quantile of the prior")
    axes.get_xaxis().set_visible(True)
    axes.get_yaxis().set_visible(True)
    axes.set_xticks([])
    axes.set_yticks([])
    return figure


def is_image(x: Tensor) -> bool:
    """Whether data can be drawn as pictures.

    Args:
        x: shape (rows, ...).
    """
    return _images(x).dim() > 2


def _images(x: Tensor) -> Tensor:
    """Data as (rows, height, width), (rows, channels, height, width), or else (rows, numbers)."""
    x = x.detach().float().cpu()
    if x.dim() == 4 and x.shape[1] not in (1, 3):
        x = x.flatten(1)
    if x.dim() == 1 or x.dim() > 4:
        x = x.reshape(len(x), -1)
    side = math.isqrt(x.shape[1])
    if x.dim() == 2 and side >= 4 and side * side == x.shape[1]:
        return x.reshape(-1, side, side)  # a picture that was flattened
    return x


def _mosaic(x: Tensor, columns: int, gap: int = _GAP) -> Pixels:
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


def _show(axes: Axes, sheet: Pixels, limits: tuple[float, float]) -> None:
    low, high = limits
    if sheet.ndim == 3:
        sheet = np.nan_to_num((sheet - low) / (high - low), nan=1.0).clip(0, 1)
    axes.imshow(sheet, cmap="gray_r", vmin=low, vmax=high, interpolation="nearest")
    axes.get_xaxis().set_visible(False)
    axes.get_yaxis().set_visible(False)
    axes.spines[:].set_visible(False)


def _range(x: Tensor) -> tuple[float, float]:
    """[0, 1] where the data lie in it, or else their own range."""
    low, high = x.min().item(), x.max().item()
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    return low, high if high > low else low + 1


def _curves(figure: Figure, groups: Tensor) -> None:
    """Data that are no images: one panel a datum, one line a group."""
    count = groups.shape[1]
    panels = figure.subplots(1, count, sharey=True, squeeze=False)[0]
    for column, axes in enumerate(panels):
        marker = "." if groups.shape[2] < 12 else None
        for values, colour in zip(groups[:, column], ("#444444", _VALID), strict=False):
            axes.plot(values.numpy(), color=colour, lw=1, marker=marker)
        axes.set_xticks([])
        axes.spines[["top", "right"]].set_visible(False)
    if len(groups) == 2:
        names = ["data", "reconstructed"]
        figure.legend(panels[0].lines, names, loc="outside upper center", ncols=2, frameon=False)


def _colours(count: int) -> list[tuple[float, ...]]:
    from matplotlib import colormaps

    if count <= 10:
        return [colormaps["tab10"](i) for i in range(count)]
    return [colormaps["viridis"](i / (count - 1)) for i in range(count)]
