import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import linear_gaussian as lg
from exact import linear_hierarchy as lh

from pvae.evaluation import (
    UndefinedQuantityError,
    active_units,
    information,
    kl_by_site,
    latent_use,
)

EXACT_INFORMATION = 0.5 * lg.PRECISION.logdet().item()  # I(x; z) = 0.5 log |I + W'W / s^2|


def exact_divergence(x):
    q = dist.MultivariateNormal(lg.posterior_loc(x), precision_matrix=lg.PRECISION)
    return torch.distributions.kl_divergence(
        q, dist.MultivariateNormal(torch.zeros(lg.Z), torch.eye(lg.Z))
    )


def half(x):
    """The first coordinate has the exact posterior's mean; the second is the prior."""
    with pyro.plate("data", len(x)):
        loc = lg.posterior_loc(x) * torch.tensor([1.0, 0.0])
        pyro.sample("z", dist.Normal(loc, torch.tensor([0.3, 1.0])).to_event(1))


def test_exact_posterior():
    result = information(lg.model, lg.posterior, lg.draw(1000), num_particles=2)
    mutual, aggregated = result.mutual_information, result.aggregated
    assert abs(mutual.mean - EXACT_INFORMATION) < 4 * mutual.std_error + 0.02
    assert abs(aggregated.mean) < 0.05
    assert mutual.mean + aggregated.mean == pytest.approx(result.kl.mean, abs=1e-5)
    assert abs(result.kl.mean - exact_divergence(lg.draw(1000)).mean().item()) < (
        4 * result.kl.mc_error
    )
    assert result.ceiling == pytest.approx(6.9078, abs=1e-4)
    assert "evaluate on more" not in result.sentence


def test_information_near_log_n():
    def sharp(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(lg.posterior_loc(x), 1e-4).to_event(1))

    result = information(lg.model, sharp, lg.draw(50))
    assert result.mutual_information.mean == pytest.approx(result.ceiling, abs=1e-3)
    assert "evaluate on more" in result.sentence


def test_guide_that_ignores_data():
    def constant(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.new_ones(lg.Z), 1.0).to_event(1))

    result = information(lg.model, constant, lg.draw(400))
    assert result.mutual_information.mean == pytest.approx(0.0, abs=1e-5)
    assert abs(result.aggregated.mean - 1.0) < 4 * result.aggregated.mc_error  # 2 x 1^2 / 2


def test_data_error_matches_spread_over_data_sets():
    runs = [
        information(lg.model, half, lg.draw(150, seed=s), num_particles=2, seed=s)
        for s in range(60)
    ]
    for part in ("mutual_information", "aggregated", "kl"):
        estimates = [getattr(run, part) for run in runs]
        spread = torch.tensor([e.mean for e in estimates]).std().item()
        reported = sum(e.std_error for e in estimates) / len(estimates)
        assert reported == pytest.approx(spread, rel=0.3), part


@pytest.mark.slow
def test_mc_error_matches_spread_over_seeds():
    def flow(x):
        with pyro.plate("data", len(x)):
            base = dist.Normal(lg.posterior_loc(x), 1.0).to_event(1)
            shift = dist.transforms.AffineTransform(1.0, 1.0)
            pyro.sample("z", dist.TransformedDistribution(base, [shift]))

    x = lg.draw(40)
    both = [information(lg.model, half, x, num_particles=3, seed=s) for s in range(60)]
    for part in ("mutual_information", "aggregated", "kl"):
        estimates = [getattr(run, part) for run in both]
        spread = torch.tensor([e.mean for e in estimates]).std().item()
        reported = sum(e.mc_error for e in estimates) / len(estimates)
        assert reported == pytest.approx(spread, rel=0.3), part
    runs = [active_units(lg.model, flow, x, seed=s).sites["z"] for s in range(60)]
    spreads = torch.stack([run.variance for run in runs]).std(0)
    errors = torch.stack([run.mc_error for run in runs]).mean(0)
    torch.testing.assert_close(errors, spreads, rtol=0.3, atol=0)


def test_density_of_repeated_guide_runs(monkeypatch):
    x = lg.draw(60)
    fast = information(lg.model, lg.posterior, x)
    monkeypatch.setattr("pvae.evaluation.aggregated_posterior._broadcasts", lambda *_: False)
    slow = information(lg.model, lg.posterior, x)
    monkeypatch.setattr("pvae.evaluation.EvaluationContext.rows_per_call", lambda *_, **__: 7)
    few = information(lg.model, lg.posterior, x)
    for part in ("mutual_information", "aggregated"):
        expected = getattr(fast, part).per_datum
        torch.testing.assert_close(getattr(slow, part).per_datum, expected, atol=1e-4, rtol=1e-4)
        assert getattr(few, part).mean == pytest.approx(expected.mean().item(), abs=0.2)


@pytest.mark.parametrize("order", ["up", "down"])
def test_information_of_hierarchy(order):
    x = lh.draw(300)
    result = information(lh.model, lh.posterior(order), x, num_particles=2)
    exact = 0.5 * (lh.PRECISION.logdet() + lh.PRIOR.logdet()).item()
    assert abs(result.mutual_information.mean - exact) < 4 * result.mutual_information.std_error
    assert abs(result.aggregated.mean) < 0.1
    assert abs(result.kl.mean - lh.divergence(x)) < 4 * result.kl.mc_error


@pytest.mark.parametrize("data_dim", [-1, -2])
def test_any_data_plate_dim(data_dim):
    def plates(rows):
        return pyro.plate("data", rows, dim=data_dim), pyro.plate("pixels", 5, dim=-3 - data_dim)

    def model(x):
        data, pixels = plates(len(x))
        with data, pixels:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x.T if data_dim == -1 else x)

    def guide(x):
        data, pixels = plates(len(x))
        with data, pixels:
            pyro.sample("z", dist.Normal((x.T if data_dim == -1 else x) / 2, 0.5**0.5))

    x = torch.randn(400, 5) * 2**0.5
    z = kl_by_site(model, guide, x, num_particles=1)["z"]
    exact = 0.5 * (0.5 + x.square() / 4 - 1 + torch.tensor(2.0).log())
    torch.testing.assert_close(z.per_datum, exact.sum(1))
    torch.testing.assert_close(z.per_coordinate, exact.mean(0))
    torch.testing.assert_close(
        active_units(model, guide, x).sites["z"].variance, x.var(0) / 4, atol=1e-5, rtol=1e-4
    )
    mutual = information(model, guide, x, num_particles=1).mutual_information
    assert abs(mutual.mean - 2.5 * torch.tensor(2.0).log().item()) < 4 * mutual.std_error


def test_missing_joint_density_raises():
    def shared(program):
        def run(x):
            pyro.sample("w", dist.Normal(0.0, 1.0))
            program(x)

        return run

    def auxiliary(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("u", dist.Normal(x.new_zeros(len(x)), 1.0))
        lg.posterior(x)

    x = lg.draw(20)
    with pytest.raises(UndefinedQuantityError, match=r"\['w'\] are global"):
        information(shared(lg.model), shared(lg.posterior), x)
    with pytest.raises(UndefinedQuantityError, match=r"auxiliary sites \['u'\]"):
        information(lg.model, auxiliary, x)
    use = latent_use(shared(lg.model), shared(lg.posterior), x)
    assert use.information is None
    assert "outside the data plate" in use.undefined
