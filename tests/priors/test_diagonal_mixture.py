"""A mixture of Gaussians by matrix products, beside `MixtureSameFamily` in float64."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from pvae.priors.diagonal_mixture import DiagonalMixture


def parameters(scale, dtype=torch.float32):
    torch.manual_seed(0)
    parts = torch.randn(7), torch.randn(7, 5), scale * (0.1 + torch.rand(7, 5))
    return [part.to(dtype).requires_grad_() for part in parts]


def reference(logits, loc, scale):
    parts = dist.Normal(loc, scale).to_event(1)
    return dist.MixtureSameFamily(dist.Categorical(logits=logits), parts)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_density_and_gradients(scale):
    own, exact = parameters(scale), parameters(scale, torch.float64)
    z = (own[1][2] + 3 * scale * torch.randn(4, 6, 5)).detach()
    found = DiagonalMixture(*own).log_prob(z)
    expected = reference(*exact).log_prob(z.double())
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    found.sum().backward()
    expected.sum().backward()
    for one, other in zip(own, exact, strict=True):
        torch.testing.assert_close(one.grad.double(), other.grad, rtol=1e-4, atol=1e-4)


def test_draws():
    torch.manual_seed(1)
    mixture = DiagonalMixture(*parameters(1.0))
    z = mixture.sample((40_000,))
    error = mixture.variance.sqrt() / 200
    assert ((z.mean(0) - mixture.mean).abs() < 4 * error).all()
    assert ((z.var(0) / mixture.variance - 1).abs() < 0.05).all()
    assert (
        mixture.log_prob(z).mean() - reference(*parameters(1.0)).log_prob(z).mean()
    ).abs() < 1e-4


def test_in_a_plate():
    mixture = DiagonalMixture(*parameters(1.0))
    with pyro.plate("data", 6):
        z = pyro.sample("z", mixture)
    assert z.shape == (6, 5)
    expanded = mixture.expand((6,))
    assert expanded.mean.shape == expanded.variance.shape == (6, 5)
    assert expanded.log_prob(z).shape == (6,)
    assert expanded.log_prob(z[0]).shape == (6,)
    assert expanded.sample((2,)).shape == (2, 6, 5)
    with pytest.raises(ValueError, match="Expected parameter scale"):
        DiagonalMixture(torch.zeros(2), torch.zeros(2, 3), torch.zeros(2, 3), validate_args=True)
