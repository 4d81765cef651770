"""Stated Monte Carlo errors cover the truth as often as they should, over 200 seeds."""

import pytest
from exact import linear_gaussian as lg

import pvae
from pvae.evaluation import EvaluationContext

X = lg.draw(10)
EVIDENCE = lg.evidence(X).mean().item()
CONTEXT = EvaluationContext(lg.model, lg.wide, X)


def elbo(seed):
    return pvae.elbo(lg.model, lg.wide, CONTEXT, 20, seed=seed), EVIDENCE - lg.WIDE_GAP


def log_likelihood(seed):
    return pvae.log_likelihood(lg.model, lg.wide, CONTEXT, 100, seed=seed), EVIDENCE


def ais(seed):
    return pvae.ais(lg.model, lg.wide, CONTEXT, 20, 10, num_leapfrog_steps=2, seed=seed), EVIDENCE


def bdmc(seed):
    """With enough temperatures both bounds are the evidence, up to their errors."""
    found = pvae.bdmc(lg.model, lg.wide, X, 40, 40, num_leapfrog_steps=2, seed=seed)
    return found.gap, 0.0


@pytest.mark.slow
@pytest.mark.parametrize("measure", [elbo, log_likelihood, ais, bdmc])
def test_errors_cover(measure):
    covered = []
    for seed in range(200):
        found, exact = measure(seed)
        covered.append(abs(found.mean - exact) <= 2 * found.mc_error)
    assert 0.90 <= sum(covered) / len(covered) <= 0.99
