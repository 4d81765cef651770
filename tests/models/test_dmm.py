"""The deep Markov model, against a loop over its steps and against an exact Gaussian chain."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import pvae
from pvae.guides import Combiner
from pvae.likelihoods import MarkovChain
from pvae.models import DMM


def step(before, inputs):
    loc = 0.8 * before if inputs is None else 0.8 * before + inputs[..., : before.shape[-1]]
    return dist.Normal(loc, 0.5).to_event(1)


def test_density_is_that_of_single_steps():
    torch.manual_seed(0)
    inputs, first = torch.randn(3, 5, 2), torch.randn(2)
    mask = pvae.nn.within(torch.tensor([5, 2, 1]), 5)
    chain = MarkovChain(step, first, steps=5, inputs=inputs, mask=mask)
    z = chain.rsample()
    before, total = first.expand(3, 2), torch.zeros(3)
    for t in range(5):
        total = total + step(before, inputs[:, t]).log_prob(z[:, t]) * mask[:, t]
        before = z[:, t]
    assert torch.allclose(chain.log_prob(z), total, atol=1e-5)
    assert chain.rsample((7,)).shape == (7, 3, 5, 2)
    assert torch.equal(chain.expand((4, 3)).log_prob(z), chain.log_prob(z).expand(4, 3))


def test_draws_have_the_moments_of_the_chain():
    torch.manual_seed(0)
    chain = MarkovChain(step, torch.ones(1), steps=3).expand((20000,))
    z = chain.rsample()[..., 0]
    variances, variance = [], 0.0
    for _ in range(3):
        variance = 0.64 * variance + 0.25
        variances.append(variance)
    assert torch.allclose(z.mean(0), torch.tensor([0.8, 0.64, 0.512]), atol=0.02)
    assert torch.allclose(z.var(0), torch.tensor(variances), rtol=0.05)


def test_likelihood_of_a_linear_chain():
    """Importance sampling against the Gaussian that x is, with lengths."""
    torch.manual_seed(0)
    lengths = torch.tensor([3, 1])
    x = torch.randn(2, 3, 1)

    def model(x, lengths):
        kept = pvae.nn.within(lengths, 3)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", MarkovChain(step, torch.zeros(1), steps=3, mask=kept))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1).mask(kept).to_event(1), obs=x)

    def guide(x, lengths):
        kept = pvae.nn.within(lengths, 3)
        with pyro.plate("data", len(x)):
            pyro.sample("z", MarkovChain(step, torch.zeros(1), steps=3, inputs=0.2 * x, mask=kept))

    noise = torch.tensor([[1.0, 0, 0], [0.8, 1, 0], [0.64, 0.8, 1]])
    covariance = 0.25 * noise @ noise.mT + torch.eye(3)
    exact = torch.stack([
        dist.MultivariateNormal(torch.zeros(3), covariance).log_prob(x[0, :, 0]),
        dist.Normal(0.0, covariance[0, 0] ** 0.5).log_prob(x[1, 0, 0]),
    ])  # fmt: skip
    found = pvae.log_likelihood(model, guide, (x, lengths), 50000)
    assert torch.allclose(found.per_datum, exact, atol=0.01)


@pytest.mark.parametrize("transforms", [0, 2])
def test_steps_after_the_end_do_not_count(transforms):
    torch.manual_seed(0)
    model = DMM(x_shape=(6, 3), z_dim=2, hidden=8, transition=8)
    guide = Combiner(x_shape=(6, 3), z_dim=2, rnn=8, transforms=transforms)
    x, lengths = torch.rand(4, 6, 3).round(), torch.tensor([6, 3, 1, 4])
    changed = torch.where(pvae.nn.within(lengths, 6)[..., None], x, 1 - x)
    bounds = [pvae.elbo(model, guide, (data, lengths), 5).per_datum for data in (x, changed)]
    assert torch.allclose(*bounds, atol=1e-5)
    # The shortest alone, cut at its end: one step has the same distribution as a datum of its own.
    short = pvae.log_likelihood(model, guide, (x[2:3], lengths[2:3]), 20000).per_datum
    cut = pvae.log_likelihood(model, guide, (x[2:3, :1], lengths[2:3]), 20000).per_datum
    assert torch.allclose(short, cut, atol=0.05)


def test_trained_and_replayed():
    torch.manual_seed(0)
    x = torch.rand(60, 6, 3).round().cumsum(1) % 2
    lengths = torch.randint(2, 7, (60,))
    model = DMM(x_shape=(6, 3), z_dim=2, hidden=8, transition=8)
    guide = Combiner(x_shape=(6, 3), z_dim=2, rnn=8, dropout=0.1)
    fit = pvae.fit(
        model, guide, (x, lengths), epochs=50, batch_size=20, learning_rate=1e-2, progress=False,
        engine="recorded",
    )  # fmt: skip
    assert fit.history[-1]["train_loss"] < fit.history[0]["train_loss"]
    assert "replayed" in fit.engine
    assert not fit.notes
