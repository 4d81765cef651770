"""What is not defined is refused with its reason and what to use instead."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import linear_gaussian as lg
from exact.families import mixtures, point_masses, subsampling
from pyro import poutine

import pvae
from pvae import IncompatibleObjectiveError, UndefinedQuantityError
from pvae.evaluation import information, kl_by_site
from pvae.objectives import IWAE, RWS, WakeSleep

X = torch.linspace(-1, 1, 20)


@pytest.mark.parametrize("measure", [pvae.log_likelihood, kl_by_site, information])
def test_point_guide_has_no_density(measure):
    with pytest.raises(UndefinedQuantityError, match=r"\['z'\] .*point masses.*pvae.elbo gives"):
        measure(*point_masses.point(), X)


def test_point_guide_is_named():
    bound = pvae.elbo(*point_masses.point(), X)
    assert bound.points == ("z",)
    assert bound.quantity == bound.as_json()["quantity"] == "log p(x, z)"
    assert "no bound on log p(x)" in bound.note
    exact = pvae.elbo(lg.model, lg.posterior, lg.draw(3))
    assert (exact.quantity, exact.note) == ("log p(x)", "")


def test_discrete_point_guide_has_a_bound():
    """A point mass at one value of a discrete site has a probability."""

    def model(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Bernoulli(x.new_full((len(x),), 0.3)))
            pyro.sample("x", dist.Normal(y, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Delta((x > 0.5).float()))

    bound = pvae.elbo(model, guide, X)
    y = (X > 0.5).float()
    exact = dist.Bernoulli(0.3).log_prob(y) + dist.Normal(y, 1.0).log_prob(X)
    torch.testing.assert_close(bound.per_datum, exact)
    assert bound.note == ""


@pytest.mark.parametrize("measure", [pvae.elbo, pvae.log_likelihood])
def test_sum_of_auxiliary_sites_has_no_known_density(measure):
    def guide(x):
        with pyro.plate("data", len(x)):
            u, v = (
                pyro.sample(name, dist.Normal(x, 1.0), infer={"is_auxiliary": True})
                for name in "uv"
            )
            pyro.sample("z", dist.Delta(u + v))

    with pytest.raises(UndefinedQuantityError, match=r"\['z'\] from auxiliary sites \['u', 'v'\]"):
        measure(point_masses.point()[0], guide, X)


@pytest.mark.parametrize("kind", ["site", "dropout"])
def test_noise_of_the_guide_has_no_information(kind):
    def guide(x):
        with pyro.plate("data", len(x)):
            if kind == "site":
                fn = dist.Normal(x.new_zeros(len(x)), 1.0)
                noise = pyro.sample("u", fn, infer={"is_auxiliary": True})
            else:
                noise = torch.randn(len(x))
            pyro.sample("z", dist.Normal(x + noise, 1.0))

    what = r"auxiliary sites \['u'\]" if kind == "site" else "outside its sites"
    with pytest.raises(UndefinedQuantityError, match=what):
        information(point_masses.point()[0], guide, X)
    assert kl_by_site(point_masses.point()[0], guide, X)["z"].mc_error > 0.01


def test_training_of_a_point_mass_by_scores():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        loc = pyro.param("loc", torch.tensor(0.5))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(loc * x))

    for objective in (RWS(3), RWS(3, insomnia=0.5), WakeSleep()):
        with pytest.raises(IncompatibleObjectiveError, match=r"\['z'\] \(Delta\) would stay"):
            objective.loss(model, guide, X)
    transformed, _, start = point_masses.transformed()
    for key, value in start.items():
        pyro.param(key, torch.tensor(value))
    with pytest.raises(IncompatibleObjectiveError, match=r"\['z'\] \(Delta\) would stay"):
        RWS(3).loss(*transformed, X.abs())  # its place depends on the parameter s


def test_part_of_a_datum_has_no_likelihood():
    x = torch.randn(5, subsampling.PIXELS)
    for measure in (pvae.log_likelihood, pvae.ais):
        with pytest.raises(UndefinedQuantityError, match=r"'pixels' \(3 of 10 elements\).*elbo"):
            measure(*subsampling.pixels(3), x)


def test_divergence_that_is_no_sum_over_sites():
    def model(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(mixtures.WEIGHTS))
            z1, z2 = (
                pyro.sample(name, dist.Normal(mixtures.LOCS[y], 0.5)) for name in ("z1", "z2")
            )
            pyro.sample("x", dist.Normal(z1 + z2, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            for name in ("z1", "z2"):
                pyro.sample(name, dist.Normal(x / 2, 0.5))

    with pytest.raises(UndefinedQuantityError, match=r"\['z1', 'z2'\] is a sum over sites \['y'\]"):
        kl_by_site(model, guide, X)
    assert information(model, guide, X, num_particles=2).kl.mean > 0  # jointly it is defined

    def integral(x):
        with pyro.plate("data", len(x)):
            s = pyro.sample("s", dist.LogNormal(x.new_zeros(len(x)), 1.0))
            z = pyro.sample("z1", dist.Normal(0.0, s))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    for measure in (kl_by_site, information):
        with pytest.raises(UndefinedQuantityError, match=r"no sites \['s'\].*unknown integral"):
            measure(integral, lambda x: poutine.block(guide, hide=["z2"])(x), X)


def test_predictive_density_needs_global_sites():
    with pytest.raises(UndefinedQuantityError, match=r"no global sites.*pvae.log_likelihood"):
        pvae.log_predictive(lg.model, lg.posterior, lg.draw(3))


def test_scale_that_changes_with_tiles():
    def model(x):
        with pyro.plate("data", len(x)), poutine.scale(scale=len(x) ** 0.5):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)), poutine.scale(scale=len(x) ** 0.5):
            pyro.sample("z", dist.Normal(x / 2, 0.5))

    assert IWAE(1).loss(model, guide, X) > 0
    with pytest.raises(IncompatibleObjectiveError, match="scale of 'z' in the model changes"):
        IWAE(3).loss(model, guide, X)
