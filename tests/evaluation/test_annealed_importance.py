import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import linear_gaussian as lg
from pyro import poutine

import pvae
from pvae.evaluation import ais
from pvae.evaluation.annealing import temperatures
from pvae.evaluation.chains import chain_context
from pvae.evaluation.memory import peak_bytes
from pvae.pair.densities import Densities


def counts_model(x):
    """Poisson counts with Gamma(2, 1) rates: the evidence is negative binomial."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Gamma(x.new_tensor(2.0), 1.0))
        pyro.sample("x", dist.Poisson(z), obs=x)


def counts_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.LogNormal((1 + x).log() - 0.5, 0.8))


def counts_evidence(x):
    return dist.NegativeBinomial(2.0, torch.tensor(0.5)).log_prob(x)


COUNTS = torch.tensor([0.0, 1.0, 2.0, 5.0, 9.0]).repeat(8)


def near(estimate, exact, errors=4.0):
    return abs(estimate.mean - exact.mean().item()) < errors * estimate.mc_error


@pytest.mark.parametrize("start", ["guide", "prior"])
def test_exact_evidence(start):
    x = lg.draw(100)
    estimate = ais(lg.model, lg.wide, x, 32, 80, start=start, num_leapfrog_steps=5)
    assert estimate.mc_error < 0.02
    assert near(estimate, lg.evidence(x))
    assert 0.7 < estimate.acceptance.mean() < 0.9
    assert estimate.per_datum.shape == estimate.acceptance.shape == estimate.ess.shape == (100,)
    assert ((estimate.ess > 1) & (estimate.ess <= 32)).all()


@pytest.mark.parametrize("start", ["guide", "prior"])
def test_weights_unbiased(start):
    # exp(estimate) with one particle is a weight; its mean over chains is p(x).
    x = lg.draw(1).repeat(20000, 1)
    weights = ais(lg.model, lg.wide, x, 1, 8, start=start, num_leapfrog_steps=2).per_datum
    ratios = (weights - lg.evidence(x)).double().exp()
    assert abs(ratios.mean().item() - 1) < 4 * ratios.std().item() / 20000**0.5
    assert ratios.std() < 4
    assert weights.mean() < lg.evidence(x).mean()


def test_annealing_corrects_bad_guide():
    def bad(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(lg.posterior_loc(x) + 1, 0.2).to_event(1))

    x = lg.draw(50)
    exact = lg.evidence(x)
    sampled = pvae.log_likelihood(lg.model, bad, x, 32)
    annealed = ais(lg.model, bad, x, 32, 100, num_leapfrog_steps=5)
    assert sampled.mean < exact.mean().item() - 1
    assert near(annealed, exact)
    assert annealed.mc_error < 0.05


def test_more_temperatures_tighten_bound():
    x = lg.draw(50)
    means = [
        ais(lg.model, lg.wide, x, 4, t, start="prior", num_leapfrog_steps=3).mean
        for t in (1, 5, 60)
    ]
    assert means[0] < means[1] < means[2] < lg.evidence(x).mean().item() + 0.1


def test_one_temperature_is_importance_sampling():
    x = lg.draw(20)
    estimate = ais(lg.model, lg.posterior, x, 3, 1)
    torch.testing.assert_close(estimate.per_datum, lg.evidence(x), atol=1e-4, rtol=0)
    assert estimate.acceptance.isnan().all()
    annealed = ais(lg.model, lg.posterior, x, 3, 6)
    torch.testing.assert_close(annealed.per_datum, lg.evidence(x), atol=1e-4, rtol=0)


def test_mc_error_matches_spread_over_seeds():
    x = lg.draw(40)
    runs = [ais(lg.model, lg.wide, x, 16, 4, num_leapfrog_steps=2, seed=s) for s in range(25)]
    spread = torch.tensor([run.mean for run in runs]).std().item()
    reported = sum(run.mc_error for run in runs) / len(runs)
    assert reported == pytest.approx(spread, rel=0.35)
    assert ais(lg.model, lg.wide, x, 1, 2).as_json()["mc_error"] is None


@pytest.mark.parametrize("start", ["guide", "prior"])
def test_positive_latents(start):
    estimate = ais(counts_model, counts_guide, COUNTS, 32, 40, start=start, num_leapfrog_steps=5)
    assert estimate.mc_error < 0.03
    assert near(estimate, counts_evidence(COUNTS))


@pytest.mark.parametrize("start", ["guide", "prior"])
def test_simplex_latents(start):
    concentration = torch.tensor([1.0, 2.0, 3.0])

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Dirichlet(concentration))
            pyro.sample("x", dist.Multinomial(6, z), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Dirichlet(1 + 0.5 * x))

    x = torch.tensor([[6.0, 0.0, 0.0], [2.0, 2.0, 2.0], [0.0, 1.0, 5.0]]).repeat(10, 1)
    exact = dist.DirichletMultinomial(concentration, 6).log_prob(x)
    estimate = ais(model, guide, x, 32, 40, start=start, num_leapfrog_steps=5)
    assert estimate.mc_error < 0.03
    assert near(estimate, exact)


def test_dependent_guide_sites():
    def model(x):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(x.new_zeros(()), 1.0))
            z1 = pyro.sample("z1", dist.Normal(z2, 1.0))
            pyro.sample("x", dist.Normal(z1, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(0.6 * x, 1.0))
            pyro.sample("z2", dist.Normal(0.4 * z1, 0.9))

    x = torch.linspace(-3, 3, 40)
    estimate = ais(model, guide, x, 32, 40, num_leapfrog_steps=5)
    assert estimate.mc_error < 0.02
    assert near(estimate, dist.Normal(0.0, 3**0.5).log_prob(x))


def test_log_densities_match_programs():
    def model(x):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Gamma(x.new_tensor(2.0), 1.0))
            z1 = pyro.sample("z1", dist.Normal(z2, 1.0))
            pyro.sample("x", dist.Normal(z1, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(x, 1.0))
            pyro.sample("z2", dist.LogNormal(z1, 0.9))

    x, count = torch.tensor([-1.0, 0.5, 2.0]), 4
    u1, u2 = torch.randn(12, 1), torch.randn(12, 1)
    z1, z2, rows = u1[:, 0], u2[:, 0].exp(), x.repeat(count)
    prior = dist.Gamma(2.0, 1.0).log_prob(z2) + dist.Normal(z2, 1.0).log_prob(z1) + u2[:, 0]
    joint = prior + dist.Normal(z1, 1.0).log_prob(rows)
    q = dist.Normal(rows, 1.0).log_prob(z1) + dist.LogNormal(z1, 0.9).log_prob(z2) + u2[:, 0]
    for start, own in ((guide, q), (None, prior)):
        with chain_context(model, start, x, 0) as (context, plate):
            densities = Densities(model, start, context.source.first(3), count, plate)
            found = densities({"z1": u1, "z2": u2})
        torch.testing.assert_close(found, (own.double(), joint.double()))
        assert {name: value.shape for name, value in densities.draws.items()} == {
            "z1": (12, 1),
            "z2": (12, 1),
        }


def test_narrower_guide_support_is_a_lower_bound():
    def program(low, high):
        def run(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Uniform(x.new_tensor(low), high))
                if high == 4:
                    pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        return run

    x = torch.linspace(0, 4, 20)
    normal = dist.Normal(0.0, 1.0)
    inside = ((normal.cdf(3 - x) - normal.cdf(0.5 - x)) / 4).log()
    exact = ((normal.cdf(4 - x) - normal.cdf(-x)) / 4).log()
    estimate = ais(program(0.0, 4.0), program(0.5, 3.0), x, 64, 40, num_leapfrog_steps=3)
    assert estimate.per_datum.isfinite().all()
    assert inside.mean() - 0.1 < estimate.mean < exact.mean() + 4 * estimate.mc_error


def test_inner_data_plate():
    def model(x):
        with pyro.plate("pixels", 3, dim=-2), pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Gamma(x.new_tensor(2.0), 1.0))
            pyro.sample("x", dist.Poisson(z), obs=x.T)

    x = torch.tensor([[0.0, 1.0, 7.0], [2.0, 2.0, 2.0], [5.0, 0.0, 1.0], [3.0, 3.0, 9.0]])
    estimate = ais(model, model, x, 64, 60, start="prior", num_leapfrog_steps=5)
    assert estimate.mc_error < 0.1
    assert near(estimate, counts_evidence(x).sum(1))
    # Each datum separately: no chain may use the row of another.
    assert (estimate.per_datum - counts_evidence(x).sum(1)).abs().max() < 0.4


def test_scales_ignored_and_masks_applied():
    mask = torch.tensor([True] * 4 + [False] * 4)

    def masked(program):
        def run(x):
            with (
                poutine.scale(scale=17.0),
                poutine.mask(mask=mask[: len(x)].repeat(len(x) // 8 or 1)),
            ):
                program(x)

        return run

    x = lg.draw(8)
    part = ais(masked(lg.model), masked(lg.posterior), x, 1, 5).per_datum
    exact = torch.where(mask, lg.evidence(x), 0.0)
    torch.testing.assert_close(part, exact, atol=1e-4, rtol=0)


def test_chunks_fit_max_bytes(monkeypatch):
    x = lg.draw(8)
    most = []

    def model(x):
        most.append(x.numel())
        lg.model(x)

    for rows in (4, 8, 24):  # some chains, one datum, several data per call
        where = "pvae.evaluation.EvaluationContext.rows_per_call"
        monkeypatch.setattr(where, lambda *_, rows=rows: rows)
        estimate = ais(model, lg.posterior, x, 8, 2, num_leapfrog_steps=1)
        torch.testing.assert_close(estimate.per_datum, lg.evidence(x), atol=1e-4, rtol=0)
        assert max(most) == rows * lg.X
        most.clear()


def test_memory_below_max_bytes():
    model = pvae.models.VAE(x_shape=(50,), z_dim=2, hidden=100)
    guide = pvae.guides.MeanField(x_shape=(50,), z_dim=2, hidden=100)
    x = torch.rand(30, 50).bernoulli()
    used = peak_bytes(lambda: ais(model, guide, x, 16, 2, num_leapfrog_steps=1, max_bytes=2**20))
    assert 0.5 * 2**20 < used < 1.3 * 2**20


def test_plate_of_full_data_set_size():
    def sized(program):
        def run(x):
            with pyro.plate("data", 40, subsample_size=len(x)):
                loc = lg.posterior_loc(x)
                prior = dist.Normal(x.new_zeros(lg.Z), 1.0).to_event(1)
                q = dist.MultivariateNormal(loc, precision_matrix=lg.PRECISION)
                z = pyro.sample("z", prior if program == "model" else q)
                if program == "model":
                    likelihood = dist.Normal(z @ lg.WEIGHT.T + lg.BIAS, lg.SCALE).to_event(1)
                    pyro.sample("x", likelihood, obs=x)

        return run

    x = lg.draw(40)
    estimate = ais(sized("model"), sized("guide"), x, 3, 4, num_leapfrog_steps=1)
    torch.testing.assert_close(estimate.per_datum, lg.evidence(x), atol=1e-4, rtol=0)


def test_temperature_schedule():
    assert temperatures(1) == [0.0, 1.0]
    betas = torch.tensor(temperatures(50))
    assert len(betas) == 51
    assert (betas.diff() > 0).all()
    torch.testing.assert_close(betas + betas.flip(0), torch.ones(51))
