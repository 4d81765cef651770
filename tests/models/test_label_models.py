"""Models with classes, against sums over classes and integrals over one latent dimension."""

import math

import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from torch.nn.functional import one_hot

import pvae
from pvae.guides import Classifier, Clusters, Conditional, MeanField
from pvae.models import CVAE, GMVAE, SSVAE, VAE

X = torch.tensor([[0.0, 1, 0, 1], [1, 1, 0, 0], [1, 0, 1, 1]])
GRID = torch.linspace(-8, 8, 4001)
SIZES = {"x_shape": (4,), "z_dim": 1, "hidden": 8, "classes": 3}


def log_joint_of_ssvae(model, x):
    """log p(x, y) of each row and class, by a sum over a grid of z."""
    prior = dist.Normal(0.0, 1.0).log_prob(GRID) + math.log(GRID[1] - GRID[0])
    found = []
    for y in range(3):
        code = one_hot(torch.tensor(y), 3).float().expand(len(GRID), -1)
        fn = model.likelihood(model.decoder(torch.cat([GRID[:, None], code], -1)))
        terms = fn.log_prob(x[:, None]) + prior
        found.append(terms.logsumexp(-1) - math.log(3))
    return torch.stack(found, -1)


def test_a_classifier_without_hidden_units_is_refused():
    with pytest.raises(ValueError, match="expected at least one width"):
        pvae.guides.Classifier(x_shape=(3,), z_dim=2, hidden=())


def test_labels_that_are_known_are_observed_and_others_summed():
    torch.manual_seed(0)
    model, guide = SSVAE(**SIZES), Classifier(**SIZES)
    y = torch.tensor([2, -1, 0])
    exact = log_joint_of_ssvae(model, X)
    expected = torch.stack([exact[0, 2], exact[1].logsumexp(-1), exact[2, 0]])
    found = pvae.log_likelihood(model, guide, (X, y), 20000)
    assert torch.allclose(found.per_datum, expected, atol=0.02)
    assert (pvae.elbo(model, guide, (X, y), 200).per_datum < expected + 0.02).all()


def test_enumerated_bound_is_the_mean_over_classes():
    torch.manual_seed(0)
    model, guide = SSVAE(**SIZES), Classifier(**SIZES)
    y = torch.tensor([2, -1, 0])
    enumerated = TraceEnum_ELBO(max_plate_nesting=1, num_particles=2000)
    sampled = Trace_ELBO(num_particles=8000, vectorize_particles=True, max_plate_nesting=1)
    losses = [objective.loss(model, guide, X, y) for objective in (enumerated, sampled)]
    assert losses[0] == pytest.approx(losses[1], abs=0.15)


def test_auxiliary_loss_trains_the_classifier_at_known_labels_only():
    torch.manual_seed(0)
    model, guide = SSVAE(**SIZES), Classifier(**SIZES, auxiliary=3.0)
    objective = TraceEnum_ELBO(max_plate_nesting=1)
    y = torch.tensor([2, -1, 0])
    torch.manual_seed(1)
    with_loss = objective.loss(model, guide, X, y)
    guide.eval()
    torch.manual_seed(1)
    without = objective.loss(model, guide, X, y)
    log_q = guide.classifier(X).log_softmax(-1)
    expected = -3 * (log_q[0, 2] + log_q[2, 0]).item()
    assert with_loss - without == pytest.approx(expected, rel=1e-4)


def test_few_labels_classify_the_digits():
    torch.manual_seed(0)
    splits = pvae.data.load("digits", labels=100)
    sizes = {"x_shape": (8, 8), "z_dim": 8, "hidden": 64}
    model = SSVAE(**sizes, likelihood="discretized_logistic", levels=17)
    guide = Classifier(**sizes, auxiliary=10.0)
    fit = pvae.fit(model, guide, splits, epochs=40, progress=False)
    guessed = pvae.marginals(fit.model, fit.guide, splits.test)["y"].argmax(-1)
    assert (guessed == splits.test.labels).float().mean() > 0.8
    assert not fit.notes


def test_clusters_give_the_bound_of_the_mixture_prior():
    torch.manual_seed(0)
    model = GMVAE(**SIZES)
    guide = Clusters(model, x_shape=(4,), z_dim=1, hidden=8)
    vae = VAE(x_shape=(4,), z_dim=1, hidden=8, prior="mixture", components=3)
    vae.decoder.load_state_dict(model.decoder.state_dict())
    vae.prior.locs.data, vae.prior.raw.data = model.locs.data, model.raw.data
    plain = MeanField(x_shape=(4,), z_dim=1, hidden=8)
    plain.encoder.load_state_dict(guide.encoder.state_dict())
    pairs = ((model, guide), (vae, plain))
    bounds = [pvae.elbo(*pair, X, 20000) for pair in pairs]
    error = math.hypot(*(bound.mc_error for bound in bounds))
    assert abs(bounds[0].mean - bounds[1].mean) < 4 * error
    likelihoods = [pvae.log_likelihood(*pair, X, 20000).per_datum for pair in pairs]
    assert torch.allclose(*likelihoods, atol=0.03)


def test_classes_start_at_a_mixture_of_codes():
    torch.manual_seed(0)
    centres = torch.tensor([[-5.0, 0], [5, 0], [0, 5]])
    codes = (centres[:, None] + 0.3 * torch.randn(3, 200, 2)).reshape(-1, 2)
    model = GMVAE(x_shape=(4,), z_dim=2, classes=3, hidden=8, even=False)
    model.start_at(codes)
    order = torch.cdist(centres, model.locs).argmin(1)
    assert sorted(order.tolist()) == [0, 1, 2]
    assert torch.allclose(model.locs[order], centres, atol=0.1)
    classes, found = model.mixture()
    assert torch.allclose(found.base_dist.scale[order], torch.full((3, 2), 0.3), atol=0.05)
    assert torch.allclose(classes.probs, torch.full((3,), 1 / 3), atol=0.01)


def test_classes_start_at_clusters():
    codes = torch.randn(90, 2)
    clusters = torch.arange(90) % 3
    model = GMVAE(x_shape=(4,), z_dim=2, classes=3, hidden=8)
    model.start_at(codes, clusters)
    _, found = model.mixture()
    assert torch.allclose(found.base_dist.loc[1], codes[1::3].mean(0), atol=1e-5)
    assert torch.allclose(found.base_dist.scale[1], codes[1::3].std(0), atol=1e-4)
    with pytest.raises(ValueError, match=r"clusters of \[60, 30, 0\] codes: expected 3 classes"):
        model.start_at(codes, clusters % 2)


def test_condition_on_labels():
    torch.manual_seed(0)
    model, guide = CVAE(**SIZES), Conditional(**SIZES)
    y = torch.tensor([2, 1, 0])
    loc, raw = model.prior(one_hot(y, 3).float()).chunk(2, -1)
    prior = dist.Normal(loc, pvae.nn.positive(raw)).log_prob(GRID)  # (rows, grid)
    codes = one_hot(y, 3).float()[:, None].expand(-1, len(GRID), -1)
    z = GRID[None, :, None].expand(3, -1, -1)
    fn = model.likelihood(model.decoder(torch.cat([z, codes], -1)))
    exact = (fn.log_prob(X[:, None]) + prior).logsumexp(-1) + math.log(GRID[1] - GRID[0])
    found = pvae.log_likelihood(model, guide, (X, y), 20000)
    assert torch.allclose(found.per_datum, exact, atol=0.02)
    with pytest.raises(ValueError, match="needs labels"):
        model(X)


@pytest.mark.parametrize(("quadrants", "hidden"), [(1, 12), (2, 8), (3, 4)])
def test_given_quadrants_count_in_no_bound(quadrants, hidden):
    torch.manual_seed(0)
    x = torch.rand(3, 4, 4).round()
    options = {"x_shape": (4, 4), "z_dim": 2, "hidden": 8}
    model, guide = CVAE(**options, quadrants=quadrants), Conditional(**options)
    with torch.no_grad():  # each pixel has probability 1/2
        for parameter in model.decoder.parameters():
            parameter.zero_()
    bound = pvae.elbo(model, guide, x)
    assert bound.sites["x"] == pytest.approx(hidden * math.log(0.5), rel=1e-5)
    # The prior reads the given pixels, and only them.
    changed = x.clone()
    changed[:, ~model.given] = 1 - changed[:, ~model.given]
    torch.testing.assert_close(model._condition(x, None), model._condition(changed, None))
    with pytest.raises(ValueError, match="1, 2 or 3"):
        CVAE(x_shape=(4, 4), quadrants=4)
