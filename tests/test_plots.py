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
def test_learning_curve_draws_the_bound_of_both(epochs):
    figure = plots.learning_curve(history(epochs))
    train, valid = figure.axes[0].lines
    np.testing.assert_allclose(train.get_ydata(), [-100 / (e + 1) for e in range(epochs)])
    np.testing.assert_allclose(valid.get_ydata(), [-110 / (e + 1) for e in range(epochs)])
    low, high = figure.axes[0].get_ylim()
    assert low <= -100 / epochs <= high
    assert "nats per datum" in figure.axes[0].get_ylabel()


def test_learning_curve_without_validation_and_with_a_bad_start():
    rows = history(60, valid=False)
    rows[0]["train_loss"] = 1e6
    figure = plots.learning_curve(rows)
    assert len(figure.axes[0].lines) == 1
    assert figure.axes[0].get_ylim()[0] > -1000


def test_originals_stand_above_their_reconstructions():
    x = torch.rand(5, 4, 3)
    sheet = shown(plots.reconstructions(x, x / 2, n=5))
    np.testing.assert_allclose(sheet[:4, :3], x[0])
    np.testing.assert_allclose(sheet[5:9, :3], x[0] / 2)
    np.testing.assert_allclose(sheet[:4, 16:19], x[4])
    assert np.isnan(sheet[4]).all()


def test_pictures_that_were_flattened_colours_and_curves():
    flat = torch.rand(6, 64)
    sheet = shown(plots.prior_samples(flat))
    np.testing.assert_allclose(sheet[:8, :8], flat[0].reshape(8, 8))
    colours = plots.prior_samples(torch.rand(4, 3, 8, 8))
    assert colours.axes[0].images[0].get_array().shape == (17, 17, 3)
    curves = plots.reconstructions(torch.zeros(3, 7), torch.ones(3, 7))
    assert [len(axes.lines) for axes in curves.axes] == [2, 2, 2]
    assert plots.is_image(flat)
    assert not plots.is_image(torch.zeros(3, 7))


def test_latent_means_are_drawn_where_they_are_and_coloured_by_label():
    z, labels = torch.randn(40, 2), torch.arange(40) % 3
    axes = plots.latent_means(z, labels).axes[0]
    for label, points in enumerate(axes.collections):
        np.testing.assert_allclose(points.get_offsets(), z[labels == label])
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["0", "1", "2"]


def test_many_dimensions_are_drawn_by_principal_components():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(500, 5, generator=generator) * torch.tensor([0.1, 3.0, 0.1, 1.0, 0.1])
    axes = plots.latent_means(z).axes[0]
    drawn = np.asarray(axes.collections[0].get_offsets())
    assert drawn.std(0) == pytest.approx([3.0, 1.0], rel=0.1)
    assert axes.get_xlabel() == "principal component 1 (88% of variance)"
    assert plots.latent_means(z[:, :1]).axes[0].collections[0].get_offsets().shape == (500, 2)


def test_the_manifold_runs_through_the_quantiles_of_the_prior():
    seen = []

    def decode(z):
        seen.append(z)
        return z.sum(1)[:, None, None].expand(-1, 2, 2)

    sheet = shown(plots.manifold(decode, n=4))
    (z,) = seen
    quantiles = Normal(0.0, 1.0).cdf(z).reshape(4, 4, 2)
    torch.testing.assert_close(quantiles[0, :, 0], torch.tensor([0.125, 0.375, 0.625, 0.875]))
    torch.testing.assert_close(quantiles[:, 0, 1], torch.tensor([0.875, 0.625, 0.375, 0.125]))
    assert sheet.shape == (8, 8)  # no gaps
    assert sheet[0, -1] == sheet.max()  # both codes are largest in the upper right
