import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch.distributions import Normal

from pvae import plots


@pytest.fixture(autouse=True)
def no_global_figures():
    yield
    assert plt.get_fignums() == []


def shown(figure: Figure) -> np.ndarray:
    (image,) = figure.axes[0].images
    return np.ma.filled(np.ma.asarray(image.get_array(), float), np.nan)


def history(epochs, valid=True):
    return [
        {
            "epoch": e + 1,
            "train_loss": 100 / (e + 1),
            "valid_elbo": -110 / (e + 1) if valid else None,
        }
        for e in range(epochs)
    ]


@pytest.mark.parametrize("epochs", [1, 2, 50])
def test_learning_curve_of_both_bounds(epochs):
    figure = plots.learning_curve(history(epochs))
    train, valid = figure.axes[0].lines
    np.testing.assert_allclose(train.get_ydata(), [-100 / (e + 1) for e in range(epochs)])
    np.testing.assert_allclose(valid.get_ydata(), [-110 / (e + 1) for e in range(epochs)])
    low, high = figure.axes[0].get_ylim()
    assert low <= -100 / epochs <= high
    assert "nats per datum" in figure.axes[0].get_ylabel()


def test_learning_curve_without_validation():
    rows = history(60, valid=False)
    rows[0]["train_loss"] = 1e6
    figure = plots.learning_curve(rows)
    assert len(figure.axes[0].lines) == 1
    assert figure.axes[0].get_ylim()[0] > -1000


def test_sparse_validation():
    rows = history(40)
    for row in rows:
        if row["epoch"] % 5:
            del row["valid_elbo"]
    _, valid = plots.learning_curve(rows).axes[0].lines
    np.testing.assert_array_equal(valid.get_xdata(), range(5, 41, 5))
    np.testing.assert_allclose(valid.get_ydata(), [-110 / e for e in range(5, 41, 5)])


def test_one_epoch_axis():
    axes = plots.learning_curve(history(1)).axes[0]
    assert [line.get_marker() for line in axes.lines] == ["o", "o"]
    assert all(tick == int(tick) for tick in axes.get_xticks())


def test_originals_above_reconstructions():
    x = torch.rand(5, 4, 3)
    sheet = shown(plots.reconstructions(x, x / 2, n=5))
    np.testing.assert_allclose(sheet[:4, :3], x[0])
    np.testing.assert_allclose(sheet[5:9, :3], x[0] / 2)
    np.testing.assert_allclose(sheet[:4, 16:19], x[4])
    assert np.isnan(sheet[4]).all()


def test_flattened_colour_and_curve_data():
    flat = torch.rand(6, 64)
    sheet = shown(plots.prior_samples(flat))
    np.testing.assert_allclose(sheet[:8, :8], flat[0].reshape(8, 8))
    colours = plots.prior_samples(torch.rand(4, 3, 8, 8))
    assert colours.axes[0].images[0].get_array().shape == (17, 17, 3)
    curves = plots.reconstructions(torch.zeros(3, 7), torch.ones(3, 7))
    assert [len(axes.lines) for axes in curves.axes] == [2, 2, 2]
    assert plots.is_image(flat)
    assert not plots.is_image(torch.zeros(3, 7))


def test_grey_scale_from_originals():
    x = torch.linspace(-3, 5, 32).reshape(2, 4, 4)
    (image,) = plots.reconstructions(x, 10 * x).axes[0].images
    assert image.get_clim() == (-3, 5)
    (image,) = plots.reconstructions(torch.rand(2, 4, 4), 10 * x).axes[0].images
    assert image.get_clim() == (0, 1)


def test_strokes_and_photographs():
    strokes = torch.zeros(3, 8, 8)
    strokes[:, 3] = 1
    assert plots.prior_samples(strokes).axes[0].images[0].get_cmap().name == "gray_r"
    assert plots.prior_samples(1 - strokes).axes[0].images[0].get_cmap().name == "gray"


def test_four_channels_are_no_image():
    assert not plots.is_image(torch.zeros(3, 4, 8, 8))
    assert len(plots.prior_samples(torch.zeros(3, 4, 8, 8)).axes) == 3


def test_curve_legend_and_empty_panels():
    figure = plots.reconstructions(torch.zeros(6, 7), torch.ones(6, 7))
    assert [axes.get_visible() for axes in figure.axes] == [True] * 6 + [False] * 2
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["data", "reconstructed"]
    for line, value in zip(figure.axes[5].lines, (0, 1), strict=True):
        np.testing.assert_array_equal(line.get_ydata(), [value] * 7)


def test_missing_rows_and_flattened_pictures():
    x = torch.rand(7, 8, 8)
    sheet = shown(plots.reconstructions(x[:3], x.flatten(1), n=3))
    np.testing.assert_allclose(sheet[:8], sheet[9:])


def test_reconstructions_of_another_shape_raise():
    with pytest.raises(ValueError, match=r"\(5, 4, 3\) and .* \(5, 12\): give both in one shape"):
        plots.reconstructions(torch.rand(5, 4, 3), torch.rand(5, 12))


@pytest.mark.parametrize("count", [3, 12])
def test_latent_means_coloured_by_label(count):
    z, labels = torch.randn(48, 2), torch.arange(48) % count
    axes = plots.latent_means(z, labels).axes[0]
    (points,) = axes.collections
    np.testing.assert_allclose(points.get_offsets(), z)
    colours = points.get_facecolors()[:, :3]
    legend = axes.get_legend()
    assert [t.get_text() for t in legend.get_texts()] == [str(k) for k in range(count)]
    for label, key in enumerate(legend.get_lines()):
        np.testing.assert_allclose(
            colours[labels == label], [key.get_color()[:3]] * (48 // count), atol=1e-6
        )
    assert len(np.unique(colours, axis=0)) == count


def test_many_labels_and_no_labels():
    z, labels = torch.randn(60, 2), torch.arange(60) % 13
    figure = plots.latent_means(z, labels)
    assert figure.axes[0].get_legend() is None
    assert figure.axes[1].get_ylabel() == "label"
    np.testing.assert_array_equal(figure.axes[0].collections[0].get_array(), labels)
    (axes,) = plots.latent_means(z).axes
    assert axes.get_legend() is None


@pytest.mark.parametrize("count", [1, 3, 13])
def test_one_dimension_histogram(count):
    z, labels = torch.randn(60, 1), torch.arange(60) % count
    axes = plots.latent_means(z, labels).axes[0]
    assert sum(bar.get_height() for bar in axes.patches) == 60
    assert axes.get_xlabel() == "$z_1$"


def test_many_dimensions_use_principal_components():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(500, 5, generator=generator) * torch.tensor([0.1, 3.0, 0.1, 1.0, 0.1])
    axes = plots.latent_means(z).axes[0]
    drawn = np.asarray(axes.collections[0].get_offsets())
    assert drawn.std(0) == pytest.approx([3.0, 1.0], rel=0.1)
    assert axes.get_xlabel() == "principal component 1 (88% of variance)"
    assert np.abs(drawn).max(0) == pytest.approx(z[:, [1, 3]].abs().amax(0).tolist(), rel=0.1)
    assert plots.latent_means(z[:1]).axes[0].collections[0].get_offsets().shape == (1, 2)


@pytest.mark.parametrize(("size", "side"), [(16, 64), (8, 35)])
def test_manifold_of_prior_quantiles(size, side):
    seen = []

    def decode(z):
        seen.append(z)
        return z.sum(1)[:, None, None].expand(-1, size, size)

    sheet = shown(plots.manifold(decode, n=4))
    (z,) = seen
    quantiles = Normal(0.0, 1.0).cdf(z).reshape(4, 4, 2)
    torch.testing.assert_close(quantiles[0, :, 0], torch.tensor([0.125, 0.375, 0.625, 0.875]))
    torch.testing.assert_close(quantiles[:, 0, 1], torch.tensor([0.875, 0.625, 0.375, 0.125]))
    assert sheet.shape == (side, side)  # gaps only between small pictures
    assert sheet[0, -1] == np.nanmax(sheet)  # both coordinates are largest in the upper right


def test_manifold_without_images_raises():
    with pytest.raises(ValueError, match=r"\(16, 7\) for 16 codes; expected \(16, height, width\)"):
        plots.manifold(lambda z: torch.zeros(len(z), 7), n=4)
    with pytest.raises(ValueError, match=r"\(3, 8, 8\) for 16 codes"):
        plots.manifold(lambda z: torch.zeros(3, 8, 8), n=4)


def test_titles():
    x, z = torch.rand(6, 8, 8), torch.randn(6, 2)
    drawn = {
        "learning curve": plots.learning_curve(history(3)),
        "data over their reconstructions": plots.reconstructions(x, x),
        "draws from p(x)": plots.prior_samples(x, title="draws from p(x)"),
        "means of q(z | x)": plots.latent_means(z),
        "means of p(x | z)": plots.manifold(lambda z: torch.rand(len(z), 8, 8), n=3),
    }
    for title, figure in drawn.items():
        assert figure.axes[0].get_title() == title


def test_kept_epoch():
    axes = plots.learning_curve(history(9), best_epoch=4).axes[0]
    *_, line = axes.lines
    assert list(line.get_xdata()) == [4, 4]
    assert "epoch 4, kept" in [text.get_text() for text in axes.get_legend().get_texts()]


def test_labels_on_images():
    labels = torch.tensor([3, 1, 4, 1, 5, 9])
    samples = plots.prior_samples(torch.rand(6, 8, 8), labels=labels).axes[0]
    assert [text.get_text() for text in samples.texts] == ["3", "1", "4", "1", "5", "9"]
    assert [text.get_position() for text in samples.texts][4] == (9, 9)  # second row of three
    x = torch.rand(6, 8, 8)
    rebuilt = plots.reconstructions(x, x, n=2, labels=labels).axes[0]
    assert [text.get_text() for text in rebuilt.texts] == ["3", "1"]


def test_values_on_the_axes_of_the_manifold():
    axes = plots.manifold(lambda z: torch.rand(len(z), 20, 20), n=5).axes[0]
    across = [text.get_text() for text in axes.get_xticklabels()]
    up = [text.get_text() for text in axes.get_yticklabels()]
    assert across == ["-1.3", "-0.5", "0.0", "0.5", "1.3"]
    assert up == across[::-1]  # from the top
    assert list(axes.get_xticks()) == [9.5, 29.5, 49.5, 69.5, 89.5]


@pytest.mark.parametrize("shape", [(8, 8), (3, 8, 8), (5,)])
def test_rows_of_pictures(shape):
    x = torch.rand(3, 6, *shape)
    missing = torch.rand(6, *shape) < 0.5
    figures = [
        plots.interpolations(x.movedim(1, 0)),
        plots.traversals(x, [-1.0, 0.0, 1.0], names=["a", "b", "c"]),
        plots.by_label(x, [0, 1, 2]),
        plots.imputations(x[0], missing, x),
    ]
    for figure in figures:
        figure.canvas.draw()
        assert figure.axes
