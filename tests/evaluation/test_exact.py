"""Every estimator against the exact evidence of a belief network."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import pvae
from pvae.evaluation import kl_by_site

# Two layers of binary latents and binary data, small enough to enumerate.

Z2, Z1, X = 2, 3, 6
WEIGHTS = torch.Generator().manual_seed(0)
DOWN2 = 1.5 * torch.randn(Z2, Z1, generator=WEIGHTS)
DOWN1 = 1.5 * torch.randn(Z1, X, generator=WEIGHTS)
UP1 = torch.randn(X, Z1, generator=WEIGHTS)
UP2 = torch.randn(Z1, Z2, generator=WEIGHTS)


def bits(logits):
    return dist.Bernoulli(logits=logits).to_event(1)


def model(x):
    with pyro.plate("data", len(x)):
        z2 = pyro.sample("z2", bits(x.new_zeros(Z2)))
        z1 = pyro.sample("z1", bits(z2 @ DOWN2))
        pyro.sample("x", bits(z1 @ DOWN1), obs=x)


def guide(x):
    with pyro.plate("data", len(x)):
        z1 = pyro.sample("z1", bits(0.5 * x @ UP1))
        pyro.sample("z2", bits(z1 @ UP2))


def states(size):
    return torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * size)


def tables(x):
    """log p(x, z) and log q(z | x) of all 32 states, each (N, states)."""
    z1, z2 = states(Z1), states(Z2)
    one = z1.repeat_interleave(len(z2), 0)
    two = z2.repeat(len(z1), 1)
    prior = bits(torch.zeros(Z2)).log_prob(two) + bits(two @ DOWN2).log_prob(one)
    joint = prior + bits(one @ DOWN1).log_prob(x[:, None])
    rows = [bits(0.5 * row @ UP1).log_prob(one) + bits(one @ UP2).log_prob(two) for row in x]
    return joint, torch.stack(rows)


@pytest.fixture
def x():
    return torch.randint(0, 2, (40, X), generator=torch.Generator().manual_seed(1)).float()


def test_importance_sampling_of_belief_network(x):
    joint, _ = tables(x)
    estimate = pvae.log_likelihood(model, guide, x, 4000)
    assert estimate.mc_error < 0.01
    assert abs(estimate.mean - joint.logsumexp(1).mean().item()) < 4 * estimate.mc_error


def test_elbo_of_belief_network(x):
    joint, proposal = tables(x)
    exact = (proposal.exp() * (joint - proposal)).sum(1)
    bound = pvae.elbo(model, guide, x, 3000)
    assert abs(bound.mean - exact.mean().item()) < 4 * bound.mc_error
    by_site = kl_by_site(model, guide, x, num_particles=500)
    together = sum(site.mean for site in by_site.values())
    assert together == pytest.approx(-bound.sites["z1"] - bound.sites["z2"], abs=0.05)


def test_chains_with_discrete_site_raise(x):
    with pytest.raises(pvae.evaluation.UndefinedQuantityError, match=r"needs continuous latents"):
        pvae.ais(model, guide, x)


@pytest.mark.slow
def test_annealing_not_below_importance_sampling(mnist):
    model = pvae.models.VAE(x_shape=(28, 28), z_dim=20, hidden=400)
    guide = pvae.guides.MeanField(x_shape=(28, 28), z_dim=20, hidden=400)
    trained = pvae.fit(model, guide, mnist, epochs=3, progress=False)
    some = mnist.test.arguments(torch.arange(30))
    sampled = pvae.log_likelihood(trained.model, trained.guide, some, 2000)
    annealed = pvae.ais(trained.model, trained.guide, some, 8, 200)
    joint = (sampled.mc_error**2 + annealed.mc_error**2) ** 0.5
    assert annealed.mean > sampled.mean - 3 * joint
    sandwich = pvae.bdmc(trained.model, trained.guide, some, 8, 200)
    assert -3 * sandwich.gap.std_error < sandwich.gap.mean < 1.0


@pytest.fixture
def mnist():
    try:
        return pvae.data.load("mnist", binarize="dynamic")
    except (OSError, ValueError) as error:
        pytest.skip(f"MNIST is not here: {error}")
