"""Networks: shapes, parameter counts, errors."""

import math

import pytest
import torch

from pvae import nn

IMAGES = [(1, 1), (2, 3), (8, 8), (28, 28), (28, 20), (27, 21), (1, 28, 28), (3, 9, 16)]


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("hidden", [(), 7, (7,), (7, 5)])
def test_mlp_leading_dimensions(hidden):
    mlp = nn.MLP(6, hidden, 4)
    x = torch.randn(2, 3, 6)
    y = mlp(x)
    assert y.shape == (2, 3, 4)
    torch.testing.assert_close(mlp(x[1, 2]), y[1, 2])


def test_mlp_is_linear_without_hidden_layers():
    assert count(nn.MLP(6, (), 4)) == 6 * 4 + 4
    assert count(nn.MLP(6, 5, 4)) == 6 * 5 + 5 + 5 * 4 + 4
    mlp = nn.MLP(3, (), 2)
    x, y = torch.randn(5, 3), torch.randn(5, 3)
    torch.testing.assert_close(mlp(x + y) + mlp(0 * x), mlp(x) + mlp(y))
    assert (nn.MLP(3, 50, 200, activation="relu")(x) < 0).any()


@pytest.mark.parametrize("norm", [None, "weight", "batch"])
def test_last_bias_initial_value(norm):
    mlp = nn.MLP(3, 4, 2, norm=norm, out_bias=-2.0)
    assert mlp.layers[-1].bias.tolist() == [-2.0, -2.0]


@pytest.mark.parametrize("activation", ["tanh", "relu", "silu", "softplus", "gelu"])
def test_activation_between_layers(activation):
    mlp = nn.MLP(3, 4, 2, activation=activation)
    first, _, last = mlp.layers
    x = torch.randn(5, 3)
    torch.testing.assert_close(mlp(x), last(getattr(torch.nn.functional, activation)(first(x))))


@pytest.mark.parametrize("x_shape", IMAGES)
@pytest.mark.parametrize("batch", [(), (4,), (2, 3), (0,)])
@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_encoder_and_decoder_shapes(network, x_shape, batch):
    encoder = nn.encoder(network, x_shape, 6, hidden=5)
    assert encoder(torch.randn(*batch, *x_shape)).shape == (*batch, 6)
    for outputs in (1, 2):
        decoder = nn.decoder(network, 3, x_shape, outputs=outputs, hidden=5)
        assert decoder(torch.randn(*batch, 3)).shape == (*batch, outputs, *x_shape)


@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_leading_dimensions_independent(network):
    torch.manual_seed(0)
    encoder = nn.encoder(network, (3, 9, 8), 6, hidden=5)
    decoder = nn.decoder(network, 6, (3, 9, 8), outputs=2, hidden=5)
    x = torch.randn(2, 4, 3, 9, 8)
    z = encoder(x)
    y = decoder(z)
    for i in range(2):
        for j in range(4):
            torch.testing.assert_close(encoder(x[i, j]), z[i, j], rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(decoder(z[i, j]), y[i, j], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_any_number_of_convolutions(depth):
    channels = (4, 6, 8)[:depth]
    encoder = nn.ConvEncoder((13, 9), 5, channels=channels, hidden=7, activation="relu")
    decoder = nn.ConvDecoder(5, (2, 13, 9), channels=channels, hidden=(7, 8), activation="relu")
    assert decoder(encoder(torch.randn(3, 13, 9))).shape == (3, 2, 13, 9)


def test_every_pixel_connected_to_code():
    torch.manual_seed(0)
    x = torch.randn(1, 27, 20, requires_grad=True)
    nn.ConvEncoder((27, 20), 5, hidden=50)(x).sum().backward()
    assert (x.grad != 0).all()
    decoder = nn.ConvDecoder(5, (27, 20), hidden=50)
    assert (decoder(torch.randn(1, 5)) != decoder(torch.randn(1, 5))).all()


def test_parameter_counts():
    assert count(nn.encoder("mlp", (28, 28), 40, hidden=400)) == 784 * 400 + 400 + 400 * 40 + 40
    assert 5e5 < count(nn.encoder("conv", (28, 28), 40, hidden=400)) < 2e6
    assert 5e5 < count(nn.decoder("conv", 20, (28, 28), outputs=1, hidden=400)) < 2e6


def test_positive():
    raw = torch.linspace(-1e4, 1e4, 2001, requires_grad=True)
    for floor in (1e-5, 1e-3):
        scale = nn.positive(raw, floor=floor)
        assert (scale >= floor).all()
        assert scale[1000].item() == pytest.approx(1)
        assert (scale.diff() >= 0).all()
        assert math.isclose(scale[-1].item(), 1e4, rel_tol=1e-3)
        (gradient,) = torch.autograd.grad(scale.sum(), raw)
        assert gradient.isfinite().all()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: nn.MLP(3, 4, 5, activation="rellu"),
            "unknown activation 'rellu'; nearest: 'relu'",
        ),
        (lambda: nn.MLP(3, (4, 0), 5), r"hidden=\(4, 0\)"),
        (lambda: nn.MLP(3, 4, 0), "out_features=0"),
        (lambda: nn.ConvEncoder((8, 8), 2, activation="tan"), "nearest: 'tanh'"),
        (lambda: nn.ConvEncoder((8,), 2), "use network 'mlp'"),
        (lambda: nn.ConvDecoder(2, (8,)), r"out_shape \(8,\)"),
        (
            lambda: nn.encoder("cnov", (8, 8), 2, hidden=3),
            "unknown network 'cnov'; nearest: 'conv'",
        ),
        (lambda: nn.encoder("conv", (2, 3, 8, 8), 2, hidden=3), "use network 'mlp'"),
        (lambda: nn.encoder("mlp", (), 2, hidden=3), "x_shape is"),
        (lambda: nn.decoder("mlp", 2, (8, 0), outputs=1, hidden=3), r"x_shape is \(8, 0\)"),
        (lambda: nn.decoder("conv", 2, (8,), outputs=4, hidden=3), "use network 'mlp'"),
    ],
)
def test_invalid_options_raise(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_encoder_x_of_another_shape_raises(network):
    encoder = nn.encoder(network, (8, 8), 2, hidden=3)
    for shape in [(5, 4, 16), (5, 64), (5, 8, 8, 1)]:
        with pytest.raises(ValueError, match=r"expected \(\*batch, \*x_shape\)"):
            encoder(torch.zeros(shape))


def test_flatten():
    flatten = nn.Flatten((2, 3))
    x = torch.randn(4, 5, 2, 3)
    torch.testing.assert_close(flatten(x), x.reshape(4, 5, 6))
    assert flatten.out_features == 6
    with pytest.raises(ValueError, match=r"expected \(\*batch, \*x_shape\)"):
        flatten(x.mT)


def test_hidden_layers_are_mlp_without_last_layer():
    mlp, hidden = nn.MLP(6, (7, 5), 4), nn.HiddenLayers(6, (7, 5))
    hidden.layers.load_state_dict(mlp.layers[:-1].state_dict())
    x = torch.randn(2, 3, 6)
    assert hidden.out_features == 5
    torch.testing.assert_close(mlp.layers[-1](hidden(x)), mlp(x))


def test_no_hidden_layers_are_identity():
    none = nn.HiddenLayers(6, ())
    x = torch.randn(2, 3, 6)
    assert none(x) is x
    assert none.out_features == 6


def test_batch_norm_over_leading_dimensions():
    hidden = nn.HiddenLayers(6, 7, activation="tanh", norm="batch")
    x = torch.randn(4, 5, 6)
    inner = hidden.layers[0](x)
    mean, variance = inner.mean((0, 1)), inner.var((0, 1), unbiased=False)
    expected = torch.tanh((inner - mean) / (variance + 1e-5).sqrt())
    torch.testing.assert_close(hidden(x), expected, rtol=1e-4, atol=1e-5)
    hidden.eval()
    torch.testing.assert_close(hidden(x)[1, 2], hidden(x[1, 2]))


def test_batch_norm_of_one_row_is_eval_mode():
    hidden = nn.HiddenLayers(6, 7, norm="batch")
    hidden(torch.randn(50, 6))
    x = torch.randn(1, 1, 6)
    before = {name: value.clone() for name, value in hidden.state_dict().items()}
    in_training = hidden(x)
    assert all(torch.equal(hidden.state_dict()[name], value) for name, value in before.items())
    torch.testing.assert_close(in_training, hidden.eval()(x))


def test_batch_norm_excludes_last_layer():
    mlp = nn.MLP(6, 7, 4, norm="batch")
    assert [type(layer).__name__ for layer in mlp.layers] == [
        "Linear", "_BatchNorm", "SiLU", "Linear",
    ]  # fmt: skip


def test_weight_norm_keeps_function():
    torch.manual_seed(0)
    plain = nn.MLP(6, 7, 4)
    torch.manual_seed(0)
    normed = nn.MLP(6, 7, 4, norm="weight")
    x = torch.randn(3, 6)
    torch.testing.assert_close(normed(x), plain(x))
    assert count(normed) == count(plain) + 7 + 4
    with torch.no_grad():
        normed.layers[0].parametrizations.weight.original1.mul_(3.0)
    torch.testing.assert_close(normed(x), plain(x))


def test_residual_layers_add_input():
    same = nn.HiddenLayers(6, (6,), activation="tanh", residual=True)
    x = torch.randn(2, 3, 6)
    torch.testing.assert_close(same(x), x + torch.tanh(same.layers[0].layer[0](x)))
    other = nn.HiddenLayers(6, (7,), activation="tanh", residual=True)
    (block,) = other.layers
    expected = x @ block.skip.weight.T + torch.tanh(block.layer[0](x))
    torch.testing.assert_close(other(x), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "batc", "hidden": 4}, "unknown norm 'batc'; nearest: 'batch'"),
        ({"norm": "batch", "hidden": ()}, "give hidden a width, or leave norm out"),
        ({"residual": True, "hidden": ()}, "give hidden a width, or leave residual out"),
        ({"hidden": (4, 0)}, r"hidden=\(4, 0\)"),
    ],
)
def test_hidden_layers_invalid_options_raise(options, message):
    with pytest.raises(ValueError, match=message):
        nn.HiddenLayers(3, **options)
    with pytest.raises(ValueError, match=message):
        nn.MLP(3, options.pop("hidden"), 2, **options)


def test_public_names():
    assert nn.__all__ == [
        "MLP",
        "BackwardRNN",
        "ConvDecoder",
        "ConvEncoder",
        "Flatten",
        "GatedTransition",
        "HiddenLayers",
        "TableFeatures",
        "decoder",
        "encoder",
        "positive",
        "with_class",
        "within",
    ]
