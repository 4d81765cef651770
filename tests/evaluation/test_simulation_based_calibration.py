import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import linear_gaussian as lg

from pvae.evaluation import calibration


def shifted(x):
    """The exact posterior, shifted by 0.5 in the first coordinate."""
    with pyro.plate("data", len(x)):
        loc = lg.posterior_loc(x) + torch.tensor([0.5, 0.0])
        pyro.sample("z", dist.MultivariateNormal(loc, precision_matrix=lg.PRECISION))


def narrow(x):
    with pyro.plate("data", len(x)):
        precision = 2 * lg.PRECISION
        pyro.sample("z", dist.MultivariateNormal(lg.posterior_loc(x), precision_matrix=precision))


LIKE = torch.zeros(1, lg.X)


def test_posterior_is_calibrated():
    result = calibration(lg.model, lg.posterior, LIKE)
    assert result.p_value > 0.01
    assert result.sentence.startswith("no miscalibration found on 1000 simulated data")
    z = result.sites["z"]
    assert z.ranks.shape == (1000, lg.Z)
    assert z.ranks.min() == 0
    assert z.ranks.max() == 99
    assert z.histogram.shape == (lg.Z, 20)
    assert (z.histogram.sum(1) == 1000).all()
    assert (z.bias.abs() < 4 * z.bias_error).all()
    assert (z.dispersion.abs() < 4 * z.dispersion_error).all()


def test_p_values_of_posterior_are_uniform():
    p = [
        calibration(lg.model, lg.posterior, LIKE, num_data=300, seed=s).sites["z"].p_values
        for s in range(40)
    ]
    values = torch.cat(p)
    assert values.mean().item() == pytest.approx(0.5, abs=0.12)  # 4 x (1/12 / 80)^0.5 = 0.13
    assert 0.05 < (values < 0.2).double().mean() < 0.4


@pytest.mark.parametrize(
    ("guide", "words", "coordinates"),
    [
        (lg.wide, "too wide (over-dispersed)", "coordinates 0, 1"),
        (narrow, "too narrow (under-dispersed)", "coordinates 0, 1"),
        (shifted, "biased high", "coordinate 0"),
    ],
)
def test_miscalibration_is_named(guide, words, coordinates):
    result = calibration(lg.model, guide, LIKE)
    assert result.p_value < 1e-4
    assert result.sentence.endswith(f"q(z | x) is {words} at site 'z', {coordinates}")


def test_rank_moments_of_wide_guide():
    result = calibration(lg.model, lg.wide, LIKE, num_data=20_000)
    # In units where the true z is N(0, 1), draws are N(0, 1.5): u = Phi(t / 1.5^0.5).
    t = torch.randn(10**6, dtype=torch.float64)
    u = dist.Normal(0.0, 1.5**0.5).cdf(t)
    ranks = u * 99 + (u * (1 - u) * 99) ** 0.5 * torch.randn(10**6)
    expected = (ranks.var() / ((100**2 - 1) / 12) - 1).item()
    assert result.sites["z"].dispersion.tolist() == pytest.approx([expected] * 2, abs=0.03)


def test_discrete_hierarchical_and_conditioned_pairs():
    def model(x, y):
        with pyro.plate("data", len(x)):
            top = pyro.sample("top", dist.Bernoulli(0.3 + 0.4 * y))
            z = pyro.sample("z", dist.Normal(2 * top, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x, y):
        prior = 0.3 + 0.4 * y
        log_odds = prior.logit() + dist.Normal(2.0, 2**0.5).log_prob(x)
        log_odds = log_odds - dist.Normal(0.0, 2**0.5).log_prob(x)
        with pyro.plate("data", len(x)):
            top = pyro.sample("top", dist.Bernoulli(logits=log_odds))
            pyro.sample("z", dist.Normal(top + x / 2, 0.5**0.5))

    like = (torch.zeros(2), torch.tensor([0.0, 1.0]))
    assert calibration(model, guide, like, num_data=2000).p_value > 0.01
    wrong = calibration(model, lambda x, y: guide(1.5 * x, y), like, num_data=2000)
    assert "'z'" in wrong.sentence

    def wrong_of_ones(x, y):
        guide(torch.where(y == 1, 2 * x, x), y)

    assert calibration(model, wrong_of_ones, like, num_data=2000).p_value < 0.01


def test_flattened_data():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(lg.Z), 1.0).to_event(1))
            loc = z @ lg.WEIGHT.T + lg.BIAS
            pyro.sample("x", dist.Normal(loc, lg.SCALE).to_event(1), obs=x.flatten(1))

    def guide(x):
        assert x.shape[1:] == (5, 1)
        lg.posterior(x[..., 0])

    assert calibration(model, guide, torch.zeros(1, 5, 1), num_data=200).p_value > 0.01


def test_plate_of_full_data_set_size():
    def sized(program):
        def run(x):
            with pyro.plate("all", 150, subsample_size=len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(lg.Z), 1.0).to_event(1))
                loc = z @ lg.WEIGHT.T + lg.BIAS
                pyro.sample("x", dist.Normal(loc, lg.SCALE).to_event(1), obs=x)

        def posterior(x):
            with pyro.plate("all", 150, subsample_size=len(x)):
                pyro.sample("z", dist.MultivariateNormal(lg.posterior_loc(x), None, lg.PRECISION))

        return run if program == "model" else posterior

    result = calibration(sized("model"), sized("guide"), lg.draw(150), num_draws=9, num_data=400)
    assert result.p_value > 0.01
    assert result.sites["z"].ranks.shape == (400, lg.Z)


def test_state_restored():
    drop = torch.nn.Dropout(0.5)
    weight = torch.nn.Parameter(torch.ones(()))

    def guide(x):
        lg.posterior(drop(x) * weight)

    before = torch.get_rng_state()
    assert calibration(lg.model, guide, LIKE, num_data=200).p_value > 0.01  # dropout was off
    assert (torch.get_rng_state() == before).all()
    assert drop.training
    assert weight.grad is None


def test_unsimulatable_models_raise():
    def rounded(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(lg.Z), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x.sum(-1))

    def factored(x):
        lg.model(x)
        with pyro.plate("more", len(x)):
            pyro.factor("f", x.sum(-1))

    def shared(x):
        pyro.sample("w", dist.Normal(0.0, 1.0))
        lg.model(x)

    def shared_guide(x):
        pyro.sample("w", dist.Normal(0.0, 1.0))
        lg.posterior(x)

    with pytest.raises(ValueError, match="site 'x' observes no argument"):
        calibration(rounded, lg.posterior, LIKE)
    with pytest.raises(ValueError, match=r"factors \['f'\]"):
        calibration(factored, lg.posterior, LIKE)
    with pytest.raises(ValueError, match=r"\['w'\] are global"):
        calibration(shared, shared_guide, LIKE)
    with pytest.raises(ValueError, match="no plate of the batch's size"):
        calibration(lambda x: pyro.sample("x", dist.Normal(0.0, 1.0), obs=x), lg.posterior, LIKE)
    with pytest.raises(ValueError, match="share no latent site"):
        calibration(lg.model, lambda x: None, LIKE)
    with pytest.raises(ValueError, match="num_draws is 0: give at least 1"):
        calibration(lg.model, lg.posterior, LIKE, num_draws=0)


def test_json():
    import json

    result = calibration(lg.model, lg.wide, LIKE, num_data=200)
    numbers = json.loads(json.dumps(result.as_json()))
    assert numbers["num_data"] == 200
    assert len(numbers["sites"]["z"]["p_values"]) == lg.Z
    assert numbers["sentence"] == result.sentence
