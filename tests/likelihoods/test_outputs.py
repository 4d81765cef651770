"""Every likelihood by name: formula, normalisation, samples, gradients, shapes, errors."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import quad
from scipy.special import expit, log_softmax, softmax

from pvae import likelihoods

# The others have tests of their own: test_multivariate.py and test_mixed.py.
ELEMENTWISE = sorted(set(likelihoods.names) - {"gaussian_full", "gaussian_low_rank", "mixed"})
X_SHAPE = (2, 3)
GREY = ("categorical", "discretized_logistic")
COUNTS = ("poisson", "negative_binomial", "zero_inflated_negative_binomial")
CLASSES = ("classes", "ordinal")
RANGES = {"continuous_bernoulli": (0, 1), "log_normal": (0, 200)}


def build(name):
    return likelihoods.get(name, X_SHAPE, levels=5)


def network_output(likelihood, batch=(4,), scale=1.0):
    torch.manual_seed(0)
    return scale * torch.randn(*batch, likelihood.outputs, *X_SHAPE)


def data(name, batch=(4,)):
    torch.manual_seed(1)
    if name == "bernoulli":
        return torch.randint(0, 2, (*batch, *X_SHAPE)).float()
    if name in GREY:
        return torch.randint(0, 5, (*batch, *X_SHAPE)) / 4
    if name in (*COUNTS, *CLASSES):
        return torch.randint(0, 9, (*batch, *X_SHAPE)).float()
    if name in ("continuous_bernoulli", "beta"):
        return torch.rand(*batch, *X_SHAPE)
    if name == "log_normal":
        return torch.randn(*batch, *X_SHAPE).exp()
    return torch.randn(*batch, *X_SHAPE)


def softplus(raw):
    return np.logaddexp(0, raw)


def logistic_log_mass(x, loc, scale):
    lower = np.where(x == 0, -np.inf, x - 1 / 8)
    upper = np.where(x == 1, np.inf, x + 1 / 8)
    # CDFs below loc and survival functions above it are accurate in float64.
    left = stats.logistic.cdf(upper, loc, scale) - stats.logistic.cdf(lower, loc, scale)
    right = stats.logistic.sf(lower, loc, scale) - stats.logistic.sf(upper, loc, scale)
    return np.log(np.where(x < loc, left, right))


def discretized(o, x):
    floor = -np.log(4) - 4
    return logistic_log_mass(x, o[:, 0] + 0.5, np.exp(floor + softplus(o[:, 1] - 2 - floor)))


def categorical(o, x):
    index = np.rint(x * 4).astype(int)[:, None]
    return np.take_along_axis(log_softmax(o, 1), index, 1)[:, 0]


def pixel_scale(raw):
    return 1e-3 + softplus(raw + np.log(np.expm1(1 - 1e-3)))


def scale_above(floor):
    return lambda raw: floor + softplus(raw + np.log(np.expm1(1 - floor)))


rate, spread = scale_above(1e-4), scale_above(1e-3)


def negative_binomial(o, x):
    mean, failures = rate(o[:, 0]), rate(o[:, 1])
    return stats.nbinom.logpmf(x, failures, failures / (failures + mean))


def zero_inflated(o, x):
    gate = 1 / (1 + np.exp(-o[:, 2]))
    return np.log(gate * (x == 0) + (1 - gate) * np.exp(negative_binomial(o, x)))


def classes(o, x):
    index = x.astype(int)[:, None]
    return np.take_along_axis(log_softmax(o, 1), index, 1)[:, 0]


def ordinal(o, x):
    gaps = 1e-3 + softplus(o[:, 2:] + 0.54)
    first = o[:, 1:2] - o[:, :1]
    edges = np.concatenate([first, first + gaps.cumsum(1)], 1)
    ends = np.zeros_like(edges[:, :1])
    below = np.concatenate([ends, expit(edges), ends + 1], 1)
    return np.log(np.take_along_axis(np.diff(below, axis=1), x.astype(int)[:, None], 1)[:, 0])


FORMULAS = {
    "classes": classes,
    "ordinal": ordinal,
    "bernoulli": lambda o, x: stats.bernoulli.logpmf(x, 1 / (1 + np.exp(-o[:, 0]))),
    "gaussian": lambda o, x: stats.norm.logpdf(x, o[:, 0]),
    "gaussian_learned_scale": lambda o, x: stats.norm.logpdf(x, o[:, 0], 1.0),
    "gaussian_pixel_scale": lambda o, x: stats.norm.logpdf(x, o[:, 0], pixel_scale(o[:, 1])),
    "categorical": categorical,
    "continuous_bernoulli": lambda o, x: o[:, 0] * x + np.log(o[:, 0] / np.expm1(o[:, 0])),
    "discretized_logistic": discretized,
    "student_t": lambda o, x: stats.t.logpdf(x, 2 + spread(o[:, 2]), o[:, 0], spread(o[:, 1])),
    "log_normal": lambda o, x: stats.lognorm.logpdf(x, spread(o[:, 1]), scale=np.exp(o[:, 0])),
    "beta": lambda o, x: stats.beta.logpdf(x, spread(o[:, 0]), spread(o[:, 1])),
    "poisson": lambda o, x: stats.poisson.logpmf(x, rate(o[:, 0])),
    "negative_binomial": negative_binomial,
    "zero_inflated_negative_binomial": zero_inflated,
}


def test_names():
    assert set(ELEMENTWISE) == set(FORMULAS)
    for name in ELEMENTWISE:
        camel = "".join(part.capitalize() for part in name.split("_"))
        assert type(build(name)) is getattr(likelihoods, camel)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_log_prob_matches_formula(name):
    likelihood, x = build(name), data(name)
    output = network_output(likelihood)
    expected = FORMULAS[name](output.double().numpy(), x.double().numpy()).sum((1, 2))
    np.testing.assert_allclose(likelihood(output).log_prob(x).detach(), expected, rtol=2e-5)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_normalised(name):
    likelihood = likelihoods.get(name, (1,), levels=5)
    torch.manual_seed(0)
    d = likelihood(torch.randn(likelihood.outputs, 1))

    def mass(x):
        return d.log_prob(torch.tensor([x], dtype=torch.float32)).exp().item()

    if name == "bernoulli":
        total = mass(0) + mass(1)
    elif name in GREY:
        total = sum(mass(k / 4) for k in range(5))
    elif name in COUNTS:
        total = sum(mass(k) for k in range(400))
    elif name in CLASSES:
        total = sum(mass(k) for k in range(10))
    elif name == "student_t":  # in a variable in which the tails are short
        total = quad(lambda u: mass(np.tan(u)) / np.cos(u) ** 2, -1.5707, 1.5707, limit=400)[0]
    elif name == "beta":  # likewise: the ends round to 0 and 1
        total = quad(lambda u: mass(expit(u)) * expit(u) * expit(-u), -15, 15, limit=400)[0]
    else:
        total = quad(mass, *RANGES.get(name, (-15, 15)), limit=400)[0]
    assert total == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_samples_match_mean_and_support(name):
    likelihood = build(name)
    d = likelihood(network_output(likelihood))
    with torch.no_grad():
        x = d.sample((20_000,))
        assert x.shape == (20_000, 4, *X_SHAPE)
        assert d.support.check(x).all()
        if name in CLASSES:  # whose mean is the most frequent class
            assert torch.equal(x.mode(0).values, d.mean)
            return
        standard_error = x.std(0) / 20_000**0.5
        assert ((x.mean(0) - d.mean).abs() <= 5 * standard_error + 1e-6).all()


def test_mean_of_grey_levels():
    likelihood = build("categorical")
    output = network_output(likelihood)
    expected = (softmax(output.numpy(), 1) * (np.arange(5) / 4)[:, None, None]).sum(1)
    np.testing.assert_allclose(likelihood(output).mean, expected, rtol=1e-5)


@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.parametrize("extreme", [-50.0, -1e-6, 0.0, 50.0])
def test_finite_at_extreme_outputs(name, extreme):
    likelihood, x = build(name), data(name)
    for flip in (1.0, -1.0):
        # Also with the last output of opposite sign: a large loc with a tiny scale.
        sign = torch.ones(likelihood.outputs, 1, 1)
        sign[-1] = flip
        output = (torch.full((4, likelihood.outputs, *X_SHAPE), extreme) * sign).requires_grad_()
        log_prob = likelihood(output).log_prob(x)
        assert log_prob.isfinite().all()
        log_prob.sum().backward()
        assert output.grad.isfinite().all()


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_batch_shape(name):
    likelihood, x = build(name), data(name)
    output = network_output(likelihood, (3, 4))
    d = likelihood(output)
    assert d.batch_shape == (3, 4)
    assert d.event_shape == X_SHAPE
    log_prob = d.log_prob(x)
    assert log_prob.shape == (3, 4)
    for i in range(3):
        torch.testing.assert_close(log_prob[i], likelihood(output[i]).log_prob(x))
    assert likelihood(output[0, 0]).batch_shape == ()
    assert d.expand((2, 3, 4)).sample().shape == (2, 3, 4, *X_SHAPE)


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("bernoulli", 0.5),
        ("gaussian", float("nan")),
        ("gaussian_learned_scale", float("nan")),
        ("gaussian_pixel_scale", float("nan")),
        ("classes", 10.0),
        ("ordinal", 0.5),
        ("categorical", 0.1),
        ("categorical", -0.25),
        ("continuous_bernoulli", 1.25),
        ("beta", 1.25),
        ("log_normal", -1.0),
        ("poisson", 0.5),
        ("negative_binomial", -1.0),
        ("zero_inflated_negative_binomial", 1.5),
        ("discretized_logistic", 0.1),
        ("discretized_logistic", 1.25),
    ],
)
def test_x_outside_support_raises(name, bad):
    likelihood, x = build(name), data(name)
    x[0, 0, 0] = bad
    with pytest.raises(ValueError, match="support"):
        likelihood(network_output(likelihood)).log_prob(x)


def test_learned_scale_reaches_maximum_likelihood():
    likelihood = likelihoods.GaussianLearnedScale(X_SHAPE, scale=0.5)
    assert [name for name, _ in likelihood.named_parameters()] == ["log_scale"]
    torch.manual_seed(0)
    x = 0.2 * torch.randn(500, *X_SHAPE)
    output = torch.zeros(500, 1, *X_SHAPE)
    assert likelihood(output).base_dist.scale.unique().item() == pytest.approx(0.5)
    optimizer = torch.optim.LBFGS(likelihood.parameters(), line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = -likelihood(output).log_prob(x).mean()
        value.backward()
        return value

    optimizer.step(loss)
    best = x.square().mean().sqrt().item()
    assert likelihood.log_scale.exp().item() == pytest.approx(best, rel=1e-3)
    for bad in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="scale is"):
            likelihoods.GaussianLearnedScale(X_SHAPE, scale=bad)


def test_default_256_levels():
    assert likelihoods.get("categorical", X_SHAPE).outputs == 256
    assert likelihoods.get("discretized_logistic", X_SHAPE).levels == 256


def test_scale_limit_of_discretized_logistic():
    likelihood = likelihoods.DiscretizedLogistic((1,))
    d = likelihood(torch.tensor([[200 / 255 - 0.5], [-50.0]]))
    assert d.log_prob(torch.tensor([200 / 255])).item() == pytest.approx(0, abs=1e-5)


def test_get_with_classes_and_instances():
    built = likelihoods.Categorical(X_SHAPE, levels=5)
    assert likelihoods.get(built, X_SHAPE) is built
    assert likelihoods.get(built, list(X_SHAPE), levels=5) is built
    assert likelihoods.get(likelihoods.Categorical, X_SHAPE, levels=7).outputs == 7
    assert likelihoods.get("gaussian_learned_scale", X_SHAPE, scale=2.0).log_scale > 0.5


@pytest.mark.parametrize(
    ("likelihood", "options", "message"),
    [
        ("bernouli", {}, "unknown likelihood 'bernouli'; nearest: 'bernoulli'"),
        ("???", {}, "bernoulli, gaussian, gaussian_learned_scale, .*discretized_logistic"),
        ("bernoulli", {"scale": 1.0}, "Bernoulli has no option 'scale'; it has no options"),
        ("categorical", {"bins": 3}, r"Categorical has no option 'bins'; its options are \['lev"),
        ("categorical", {"levels": 1}, "levels is 1; expected at least 2"),
        (likelihoods.Categorical((3, 3)), {}, r"built for x_shape \(3, 3\), the data have"),
        (likelihoods.Categorical(X_SHAPE), {"levels": 3}, "built for 256 grey levels"),
        (likelihoods.Gaussian(X_SHAPE), {"scale": 3}, r"is an instance, and got options \['scale'"),
    ],
)
def test_get_raises(likelihood, options, message):
    with pytest.raises(ValueError, match=message):
        likelihoods.get(likelihood, X_SHAPE, **options)


def test_get_of_non_likelihood_raises():
    with pytest.raises(TypeError, match="expected a name of"):
        likelihoods.get(torch.nn.Linear, X_SHAPE)


@pytest.mark.parametrize("x_shape", [(), (0,), (3, -1)])
def test_invalid_x_shape_raises(x_shape):
    with pytest.raises(ValueError, match="x_shape is"):
        likelihoods.get("bernoulli", x_shape)


def test_output_of_another_shape_raises():
    with pytest.raises(ValueError, match=r"ends in \(2, 2, 3\)"):
        likelihoods.get("gaussian_pixel_scale", X_SHAPE)(torch.zeros(4, 1, *X_SHAPE))


def test_user_likelihood():
    class Laplace(likelihoods.Likelihood):
        def distribution(self, output):
            (loc,) = output.unbind(-3)
            return likelihoods.LogitContinuousBernoulli(loc)

    assert likelihoods.get(Laplace, X_SHAPE)(torch.zeros(4, 1, *X_SHAPE)).event_shape == X_SHAPE
