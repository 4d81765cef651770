"""Every measure on probabilistic PCA and on a belief network, whose answers are known."""

from collections.abc import Iterator

from exact import linear_gaussian as lg
from exact.belief_network import Belief
from exact.case import Row, of_estimate
from exact.gaussian_layers import Gaussian, Hierarchy
from exact.targets import elbo

import pvae
from pvae.evaluation import information, kl_by_site, marginal_by_hmc


def rows(effort: int) -> Iterator[Row]:
    x = lg.draw(40)
    evidence, name = lg.evidence(x).mean(), "probabilistic PCA"
    bound = pvae.elbo(lg.model, lg.wide, x, 500 * effort)
    yield of_estimate(name, "elbo", bound, evidence - lg.WIDE_GAP)
    found = pvae.log_likelihood(lg.model, lg.wide, x, 500 * effort)
    yield of_estimate(name, "log_likelihood", found, evidence)
    found = pvae.ais(lg.model, lg.wide, x, 16 * effort, 50)
    yield of_estimate(name, "ais", found, evidence)
    found = pvae.ais(lg.model, lg.wide, x, 16 * effort, 100, start="prior")
    yield of_estimate(name, "ais from the prior", found, evidence)
    found = marginal_by_hmc(lg.model, lg.wide, x[:20], 32, 50 * effort)
    yield of_estimate(name, "marginal_by_hmc", found, lg.evidence(x[:20]).mean())
    sandwich = pvae.bdmc(lg.model, lg.wide, x, 16 * effort, 100)
    yield of_estimate(name, "gap of bdmc", sandwich.gap, 0.0)
    loc, covariance = lg.posterior_loc(x), lg.PRECISION.inverse() * 1.5
    gap = 0.5 * (covariance.trace() + loc.square().sum(1).mean() - lg.Z - covariance.logdet())
    found = kl_by_site(lg.model, lg.wide, x, num_particles=20)["z"]
    yield of_estimate(name, "kl_by_site of z", found, gap)
    found = information(lg.model, lg.wide, x, num_particles=200 * effort)
    yield of_estimate(name, "KL(q || p)", found.kl, gap)
    for pair, title in ((Gaussian(), "a Gaussian"), (Belief(), "a belief network")):
        evidence = pair.evidence(pair.x).mean()
        exact = -elbo(pair, pair.x).value / len(pair.x)
        found = pvae.elbo(pair.model, pair.guide, pair.x, 4000 * effort)
        yield of_estimate(title, "elbo", found, exact)
        found = pvae.log_likelihood(pair.model, pair.guide, pair.x, 4000 * effort)
        yield of_estimate(title, "log_likelihood", found, evidence)
    for order in ("up", "down"):
        pair = Hierarchy(order)
        exact = -elbo(pair, pair.x).value / len(pair.x)
        found = pvae.elbo(pair.model, pair.guide, pair.x, 4000 * effort)
        yield of_estimate(f"two Gaussian layers, {order}", "elbo", found, exact)
        at = pair.points(pair.x)
        for site, guide in at.guide.items():
            exact = (at.mass * (guide - at.prior[site])).sum(-1).mean()
            found = kl_by_site(pair.model, pair.guide, pair.x, num_particles=2000 * effort)[site]
            title = f"two Gaussian layers, {order}"
            yield of_estimate(title, f"kl_by_site of {site}", found, exact)
