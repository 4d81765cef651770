"""The likelihood of tables, column by column against scipy."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import log_softmax

from pvae.likelihoods import Mixed

COLUMNS = [
    {"kind": "real", "loc": 3.0, "scale": 2.0},
    {"kind": "pos", "loc": 1.0, "scale": 0.5},
    {"kind": "count", "scale": 4.0},
    {"kind": "cat", "classes": 3, "first": 1},
    {"kind": "ordinal", "classes": 4},
]
X = torch.tensor([[2.5, 0.0, 3.0, 1.0, 0.0], [4.0, 7.5, 0.0, 3.0, 3.0]])


def softplus_scale(raw, floor):
    return floor + np.logaddexp(0, raw + np.log(np.expm1(1 - floor)))


def test_columns_match_formulas():
    likelihood = Mixed((5,), columns=COLUMNS)
    assert likelihood.outputs == 4
    torch.manual_seed(0)
    output = torch.randn(2, 4, 5)
    found = likelihood(output).base_dist.log_prob(X).numpy()
    o, x = output.double().numpy(), X.double().numpy()
    scale = softplus_scale(o[:, 1], 1e-3)
    expected = np.zeros((2, 5))
    expected[:, 0] = stats.norm.logpdf(x[:, 0], 3 + 2 * o[:, 0, 0], 2 * scale[:, 0])
    inner = stats.norm.logpdf(np.log1p(x[:, 1]), 1 + 0.5 * o[:, 0, 1], 0.5 * scale[:, 1])
    expected[:, 1] = inner - np.log1p(x[:, 1])
    expected[:, 2] = stats.poisson.logpmf(x[:, 2], 4 * softplus_scale(o[:, 0, 2], 1e-4))
    for i, k in enumerate(x[:, 3].astype(int) - 1):
        expected[i, 3] = log_softmax(o[i, :3, 3])[k]
    np.testing.assert_allclose(found[:, :4], expected[:, :4], rtol=1e-4)
    # The probabilities of ordered classes sum to 1.
    rows = X[:1].repeat(4, 1)
    rows[:, 4] = torch.arange(4)
    fn = likelihood(output[:1].expand(4, -1, -1)).base_dist
    assert fn.log_prob(rows)[:, 4].exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_draws_are_in_the_support_and_have_the_mean():
    likelihood = Mixed((5,), columns=COLUMNS)
    torch.manual_seed(0)
    fn = likelihood(0.3 * torch.randn(2, 4, 5))
    draws = fn.sample((40_000,))
    assert draws.shape == (40_000, 2, 5)
    assert fn.base_dist.support.check(draws).all()
    error = draws[..., :3].std(0) / 40_000**0.5
    assert ((draws[..., :3].mean(0) - fn.mean[:, :3]).abs() < 5 * error).all()
    assert torch.equal(draws[..., 3:].mode(0).values, fn.mean[:, 3:])
    assert set(draws[..., 3].unique().tolist()) == {1, 2, 3}
    wrong = X.clone()
    wrong[0, 3] = 0
    with pytest.raises(ValueError, match="support"):
        fn.log_prob(wrong)


@pytest.mark.parametrize("extreme", [-50.0, 0.0, 50.0])
def test_finite_at_extreme_outputs(extreme):
    likelihood = Mixed((5,), columns=COLUMNS)
    output = torch.full((2, 4, 5), extreme, requires_grad=True)
    log_prob = likelihood(output).log_prob(X)
    assert log_prob.isfinite().all()
    log_prob.sum().backward()
    assert output.grad.isfinite().all()


@pytest.mark.parametrize(
    ("columns", "match"),
    [
        (None, "needs the columns"),
        (["real"] * 4, "there are 4 columns"),
        (["real"] * 4 + ["what"], "column 4 has kind 'what'"),
        (["real"] * 4 + ["cat"], "its number of classes"),
    ],
)
def test_columns_are_checked(columns, match):
    with pytest.raises(ValueError, match=match):
        Mixed((5,), columns=columns)
