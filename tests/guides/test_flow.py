"""Flows: densities of draws by a numerical Jacobian, and the gap that mean field leaves."""

import pytest
import torch
from exact import correlated
from pyro import poutine

import pvae
from pvae.guides import Flow, FullRank

KINDS = ("iaf", "spline", "coupling")


def made(kind, **options):
    torch.manual_seed(0)
    return Flow(x_shape=(4,), z_dim=3, kind=kind, **{"hidden": (), "features": 8, **options})


@pytest.mark.parametrize("kind", KINDS)
def test_density_by_the_change_of_variables(kind):
    """log q(z | x) is that of the noise minus the log-determinant of the map to z."""
    guide = made(kind)
    x = torch.randn(1, 4)

    def at(noise):
        distribution = poutine.trace(guide).get_trace(x).nodes["z"]["fn"].dist
        base = distribution.base.base_dist
        return distribution.transform.inv(base.loc + base.scale * noise)

    noise = torch.randn(1, 3)
    jacobian = torch.autograd.functional.jacobian(lambda n: at(n[None])[0], noise[0])
    distribution = poutine.trace(guide).get_trace(x).nodes["z"]["fn"]
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(noise).sum()
    exact = normal - jacobian.slogdet()[1]
    found = distribution.log_prob(at(noise))
    torch.testing.assert_close(found, exact[None], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_density_of_draws_at_given_values(kind):
    guide = made(kind)
    site = poutine.trace(guide).get_trace(torch.randn(50, 4)).nodes["z"]
    own, given = (site["fn"].log_prob(z) for z in (site["value"], site["value"].clone()))
    torch.testing.assert_close(own, given, atol=1e-3, rtol=1e-3)


def test_depends_on_x_and_flow():
    guide = made("iaf")
    x = torch.randn(6, 4, requires_grad=True)
    guide(x).sum().backward()
    assert (x.grad.abs().sum(1) > 0).all()
    assert all(p.grad is not None for p in guide.parameters())


def gap(guide, epochs, rate, objective):
    x = correlated.draw(1000)
    found = pvae.fit(
        correlated.model, guide, x, epochs=epochs, batch_size=250, learning_rate=rate,
        objective=objective, progress=False,
        scheduler=lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, epochs),
    )  # fmt: skip
    assert "replayed" in found.engine
    assert found.notes == []
    bound = pvae.elbo(found.model, found.guide, x, 100)
    assert bound.mc_error < 0.002
    return correlated.evidence(x).mean().item() - bound.mean


def test_affine_autoregressive_flow_closes_the_gap():
    assert correlated.MEAN_FIELD_GAP > 0.5
    assert gap(made("iaf", transforms=1), 200, 0.02, pvae.objectives.ELBO(8)) < 0.01
    full_rank = FullRank(x_shape=(4,), z_dim=3, hidden=())
    assert gap(full_rank, 150, 0.03, pvae.objectives.STL(4)) < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["spline", "coupling"])
def test_other_flows_do_better_than_mean_field(kind):
    found = gap(made(kind), 200, 0.02, pvae.objectives.ELBO(8))
    assert found < 0.1 * correlated.MEAN_FIELD_GAP


@pytest.mark.parametrize("objective", ["iwae", "dreg", "stl", "rws", "vimco", "reinforce"])
def test_every_objective(objective):
    x = correlated.draw(300)
    found = pvae.fit(
        correlated.model, made("iaf"), x, epochs=4, objective=objective, progress=False
    )
    assert found.history[-1]["train_loss"] < found.history[0]["train_loss"]
    estimate = pvae.log_likelihood(found.model, found.guide, x, 50)
    assert estimate.mean < correlated.evidence(x).mean() + 0.1


def test_wrong_options_raise():
    with pytest.raises(ValueError, match="unknown kind 'planar' of flow: give one of iaf, spline"):
        Flow(kind="planar")
    with pytest.raises(ValueError, match="z_dim=1 and transforms=2"):
        Flow(z_dim=1)
