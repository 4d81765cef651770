"""Bounds and imputations of data with holes, against the Gaussian that the model is."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pvae
from pvae.models import PPCA, Tabular

NAN = float("nan")


class SeenPosterior(nn.Module):
    """The posterior of a linear model given the cells that are seen."""

    def __init__(self, model):
        super().__init__()
        self.model = [model]

    def forward(self, x, missing):
        (model,) = self.model
        precise = (~missing) / model.scale**2
        weight = model.weight
        precision = torch.eye(model.z_dim) + torch.einsum("bd,dk,dl->bkl", precise, weight, weight)
        loc = torch.linalg.solve(precision, ((x - model.bias) * precise) @ weight)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(loc, precision_matrix=precision))


@pytest.fixture
def linear():
    torch.manual_seed(0)
    model = PPCA(x_shape=(5,), z_dim=2, noise="diagonal")
    with torch.no_grad():
        model.raw.normal_()
        model.bias.normal_()
    x = pvae.sample(model, torch.zeros(50, 5))["x"]
    missing = torch.rand(50, 5) < 0.4
    missing[missing.all(1), 0] = False
    return model, x, missing


def marginal(model, x, missing):
    """Log-density of the seen cells of each row, and moments of the others given them."""
    covariance = model.weight @ model.weight.mT + torch.diag(model.scale**2)
    densities, means, variances = [], x.clone(), torch.zeros_like(x)
    for i, (row, hidden) in enumerate(zip(x, missing, strict=True)):
        seen = ~hidden
        inner = covariance[seen][:, seen]
        fn = torch.distributions.MultivariateNormal(model.bias[seen], inner)
        densities.append(fn.log_prob(row[seen]))
        gain = torch.linalg.solve(inner, covariance[seen][:, hidden]).mT
        means[i, hidden] = model.bias[hidden] + gain @ (row[seen] - model.bias[seen])
        rest = covariance[hidden][:, hidden] - gain @ covariance[seen][:, hidden]
        variances[i, hidden] = rest.diagonal()
    return torch.stack(densities), means, variances


@pytest.mark.parametrize("way", ["nan", "mask", "rows"])
def test_bound_of_seen_cells_is_their_evidence(linear, way):
    model, x, missing = linear
    guide = SeenPosterior(model)
    holes = x.masked_fill(missing, NAN)
    data, given = {"nan": (holes, "nan"), "mask": (x, missing),
                   "rows": (pvae.data.Rows(x, missing=missing), None)}[way]  # fmt: skip
    exact = marginal(model, x, missing)[0]
    bound = pvae.elbo(model, guide, data, missing=given)
    assert torch.allclose(bound.per_datum, exact, atol=1e-4)
    estimate = pvae.log_likelihood(model, guide, data, 10, missing=given)
    assert torch.allclose(estimate.per_datum, exact, atol=1e-4)


def test_imputation_is_the_conditional_gaussian(linear):
    model, x, missing = linear

    def guide(x):  # not the posterior: weights are needed
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.3).to_event(1))

    _, means, variances = marginal(model, x, missing)
    found = pvae.impute(
        model, guide, x.masked_fill(missing, NAN), num_samples=4000, num_particles=20000
    )
    assert torch.equal(found.draws[:, ~missing], x[~missing].expand(4000, -1))
    # Draws share particles: their number is at most the effective one.
    number = found.ess.clamp(max=4000)[:, None].expand_as(x)[missing]
    z = (found.mean - means)[missing] / (variances[missing] / number * 2).sqrt()
    assert z.abs().max() < 5
    ratio = found.draws.var(0)[missing] / variances[missing]
    assert ((ratio - 1).abs() < 8 / number.sqrt()).all()
    assert found.ess.min() > 20


def test_fit_with_holes_reaches_the_maximum_likelihood_of_seen_cells(linear):
    truth, x, missing = linear
    torch.manual_seed(1)
    model = PPCA(x_shape=(5,), z_dim=2, noise="diagonal")
    guide = SeenPosterior(model)
    optimizer = lambda p: torch.optim.Adam(p, lr=0.03)  # noqa: E731
    fit = pvae.fit(
        model, guide, x, missing=missing, epochs=400, optimizer=optimizer, progress=False
    )
    trained = marginal(model, x, missing)[0].mean()
    assert trained > marginal(truth, x, missing)[0].mean()
    holes = x.masked_fill(missing, NAN)
    assert pvae.elbo(fit.model, fit.guide, holes).mean == pytest.approx(trained.item(), abs=1e-4)
    assert "recorded" in fit.engine or "captured" in fit.engine


def test_every_engine_takes_the_same_steps(linear):
    _, x, missing = linear
    losses = []
    for engine in ("eager", "recorded"):
        torch.manual_seed(1)
        model = PPCA(x_shape=(5,), z_dim=2)
        guide = pvae.guides.MeanField(x_shape=(5,), z_dim=2, hidden=8)
        fit = pvae.fit(
            model, guide, x, missing=missing, epochs=30, batch_size=20, engine=engine,
            progress=False,
        )  # fmt: skip
        losses.append([row["train_loss"] for row in fit.history])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_saved_runs_know_that_values_are_missing(linear, tmp_path):
    _, x, missing = linear
    holes = x.masked_fill(missing, NAN)

    def make():
        sizes = {"x_shape": (5,), "z_dim": 2}
        return PPCA(**sizes), pvae.guides.MeanField(**sizes, hidden=8)

    fit = pvae.fit(*make(), holes, missing="nan", epochs=2, out=tmp_path / "run", progress=False)
    model, guide = make()
    again = pvae.load(tmp_path / "run", model=model, guide=guide)
    assert (
        pvae.elbo(again.model, again.guide, holes).mean
        == pvae.elbo(fit.model, fit.guide, holes).mean
    )
    codes = [pvae.infer(f.guide, holes)["z"] for f in (fit, again)]
    assert torch.equal(*codes)
    assert torch.isfinite(codes[0]).all()


def test_nothing_is_guessed(linear):
    model, x, missing = linear
    holes, guide = x.masked_fill(missing, NAN), SeenPosterior(model)
    with pytest.raises(ValueError, match="missing='nan'"):
        pvae.fit(model, guide, holes, progress=False)
    with pytest.raises(ValueError, match="missing='nan'"):
        pvae.elbo(model, guide, holes)
    with pytest.raises(ValueError, match="bool"):
        pvae.elbo(model, guide, x, missing=missing.float())
    with pytest.raises(ValueError, match="True everywhere"):
        pvae.data.Rows(x, missing=torch.ones_like(missing))


def test_dependent_elements_are_refused():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
            fn = dist.MultivariateNormal(z[:, None].expand(-1, 2), torch.eye(2))
            pyro.sample("x", fn, obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, 0], 1.0))

    x = torch.tensor([[1.0, NAN], [0.0, 1.0]])
    with pytest.raises(ValueError, match="not independent over its elements"):
        pvae.elbo(model, guide, x, missing="nan")
    assert torch.isfinite(pvae.elbo(model, guide, x[1:], missing="nan").per_datum).all()


def test_table_with_holes_is_trained_and_imputed():
    torch.manual_seed(0)
    z = torch.randn(400)
    x = torch.stack([2 * z + 5, (z > 0).float(), torch.poisson((z + 1).exp())], 1)
    missing = torch.rand(400, 3) < 0.2
    columns = pvae.data.columns.columns_of(x.double().numpy(), ["real", "cat", "count"])
    options = {"columns": columns, "z_dim": 2, "hidden": 32}
    model, guide = Tabular(x_shape=(3,), **options), pvae.guides.Tabular(**options)
    fit = pvae.fit(model, guide, x, missing=missing, epochs=60, learning_rate=3e-3, progress=False)
    found = pvae.impute(fit.model, fit.guide, x, missing)
    error = (found.mean - x)[:, 0][missing[:, 0]].square().mean().sqrt()
    assert error < 0.8 * x[:, 0].std()
    wrong = (found.mode != x)[:, 1][missing[:, 1]].float().mean()
    assert wrong < 0.35


def test_one_value_for_each_kind_of_column():
    """Of draws 0, 0, 3, 90 and infinity."""
    draws = torch.tensor([0.0, 0.0, 3.0, 90.0, torch.inf])[:, None, None].expand(5, 1, 4)
    columns = [{"kind": kind} for kind in ("pos", "cat", "ordinal", "real")]
    found = pvae.evaluation.Imputation(draws, torch.ones(1, 4, dtype=torch.bool), torch.ones(1))
    assert found.by_column(columns).tolist() == [[3.0, 0.0, 0.0, torch.inf]]
