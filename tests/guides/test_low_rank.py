"""The low-rank guide: density by hand, and the best remainder on a correlated posterior."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import correlated
from pyro import poutine

import pvae
from pvae.guides import LowRank


def set_output(guide, values, weight=None):
    """Make a linear guide's output affine in x."""
    linear = guide.encoder.mlp.layers[0]
    with torch.no_grad():
        linear.weight.zero_()
        if weight is not None:
            linear.weight[: len(weight)] = weight
        linear.bias.copy_(torch.as_tensor(values))


def raw(scale):
    """The inverse of `positive`."""
    return torch.expm1(scale - 1e-5).log() - math.log(math.expm1(1 - 1e-5))


def test_density_is_multivariate_normal():
    guide = LowRank(x_shape=(4,), z_dim=3, rank=2, hidden=())
    scale, factor = torch.tensor([0.5, 2.0, 1.5]), torch.randn(3, 2)
    loc = torch.tensor([0.1, -0.2, 0.3])
    set_output(guide, torch.cat([loc, raw(scale), 2**0.5 * factor.flatten()]))
    trace = poutine.trace(guide).get_trace(torch.randn(7, 4))
    site = trace.nodes["z"]
    exact = dist.MultivariateNormal(loc, torch.diag(scale**2) + factor @ factor.T)
    torch.testing.assert_close(
        site["fn"].log_prob(site["value"]), exact.log_prob(site["value"]), atol=1e-3, rtol=1e-4
    )
    assert site["value"].shape == (7, 3)


@pytest.mark.parametrize("rank", [1, 2])
def test_best_remainder(rank):
    """At the best covariance of its rank the gap is the smallest that the family allows."""
    scale, factor, remainder = correlated.best_low_rank(rank)
    guide = LowRank(x_shape=(4,), z_dim=3, rank=rank, hidden=())
    values = torch.cat([torch.zeros(3), raw(scale), rank**0.5 * factor.flatten()])
    set_output(guide, values, correlated.POSTERIOR_WEIGHT)
    x = correlated.draw(200)
    bound = pvae.elbo(correlated.model, guide, x, 500)
    gap = correlated.evidence(x).mean().item() - bound.mean
    assert gap == pytest.approx(remainder, abs=4 * bound.mc_error + 1e-4)
    if rank == 1:
        assert 0.01 < remainder < correlated.MEAN_FIELD_GAP
    else:
        assert remainder < 1e-6


@pytest.mark.slow
def test_training_finds_the_best_remainder():
    torch.manual_seed(0)
    x, guide = correlated.draw(1000), LowRank(x_shape=(4,), z_dim=3, rank=1, hidden=())
    found = pvae.fit(
        correlated.model, guide, x, epochs=600, batch_size=250, learning_rate=0.05,
        objective=pvae.objectives.STL(4), progress=False,
        scheduler=lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 600),
    )  # fmt: skip
    bound = pvae.elbo(found.model, found.guide, x, 100)
    gap = correlated.evidence(x).mean().item() - bound.mean
    assert gap == pytest.approx(correlated.best_low_rank(1)[2], abs=0.01)


def test_rank_below_one_raises():
    with pytest.raises(ValueError, match="rank=0: give at least 1, or use MeanField"):
        LowRank(rank=0)


def test_site_in_the_data_plate():
    trace = poutine.trace(LowRank(x_shape=(4,), z_dim=3, hidden=8)).get_trace(torch.zeros(5, 4))
    assert [frame.name for frame in trace.nodes["z"]["cond_indep_stack"]] == ["data"]
    assert pyro.get_param_store().keys()
