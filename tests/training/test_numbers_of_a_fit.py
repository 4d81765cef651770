"""What a training says of its numbers: sizes, scales, clipping, divergence."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

import pvae
from pvae.objectives import ELBO, REINFORCE
from pvae.svi import SVI


def fit(*args, **options):
    return pvae.fit(*args, **{"progress": False, "epochs": 1, **options})


def global_mean():
    def model(x):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(w, 1.0), obs=x)

    def guide(x):
        loc = pyro.param("loc", torch.tensor(0.4))
        pyro.sample("w", dist.Normal(loc, 0.1))

    return model, guide


GAP = 0.5 * (0.4**2 + 0.1**2 - 1) - torch.tensor(0.1).log().item()


def loss_of(size, x, **options):
    """The first loss, with the KL divergence of the global site at 1 / size."""
    found = []
    for seed in range(40):
        trained = fit(*global_mean(), x, seed=seed, learning_rate=1e-12, **options)
        found.append(trained.history[0]["train_loss"])
    each = torch.tensor(found)
    exact = 0.5 * 1.8379 + 0.5 * ((0.0 - 0.4) ** 2 + 0.1**2) + GAP / size
    assert abs(each.mean() - exact) < 4 * each.std() / len(each) ** 0.5
    return trained


def test_given_data_size_counts():
    trained = loss_of(5, torch.zeros(20), batch_size=20, data_size=5)
    assert trained.model.pair.data_size == 5
    assert loss_of(20, torch.zeros(20), batch_size=20).model.pair.data_size == 20


def test_sampler_with_replacement_counts_data():
    data = TensorDataset(torch.zeros(20))
    sampler = RandomSampler(data, replacement=True, num_samples=200)
    loader = DataLoader(data, batch_size=20, sampler=sampler)
    assert loss_of(20, loader).model.pair.data_size == 20


def test_bound_of_held_out_data_uses_the_size_of_the_training(tmp_path):
    x = torch.zeros(200)
    trained = fit(*global_mean(), x, valid=x[:10], learning_rate=1e-12, out=tmp_path / "run")
    model, guide = global_mean()
    loaded = pvae.load(tmp_path / "run", model=model, guide=guide)
    for each in (trained, loaded):
        few = pvae.elbo(each.model, each.guide, x[:10], 2000)
        many = pvae.elbo(each.model, each.guide, x, 2000)
        assert few.data_size == many.data_size == 200
        assert few.mean == pytest.approx(many.mean, abs=4 * (few.mc_error + many.mc_error))
        assert "count 1 / 200 per datum" in few.note
    assert trained.history[0]["valid_elbo"] == pytest.approx(many.mean, abs=1.0)
    assert pvae.elbo(model, guide, x[:10], data_size=7).data_size == 7


def test_levels_of_the_training_are_kept(tmp_path):
    """A part of grey levels with values 0 and 1 alone is no binary image."""
    x = torch.randint(0, 256, (64, 4), dtype=torch.uint8)
    dark = torch.ones(8, 4, dtype=torch.uint8)

    def make():
        seen = []

        def model(x):
            seen.append(x.max().item())
            loc = pyro.param("loc", torch.zeros(()))
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(loc, 1.0).expand([4]).to_event(1), obs=x)

        return model, (lambda x: None), seen

    model, guide, seen = make()
    trained = fit(model, guide, x, valid=dark, out=tmp_path / "run")
    assert seen[-1] == pytest.approx(1 / 255)
    pvae.elbo(trained.model, trained.guide, dark)
    assert seen[-1] == pytest.approx(1 / 255)
    model, guide, seen = make()
    loaded = pvae.load(tmp_path / "run", model=model, guide=guide)
    pvae.elbo(loaded.model, loaded.guide, dark)
    assert seen[-1] == pytest.approx(1 / 255)
    pvae.elbo(make()[0], guide, dark)  # of which nothing is known: binary


def test_clipping_ignores_the_baseline():
    """The error of a baseline has a gradient of its own, far above that of the pair."""
    baseline = nn.Linear(1, 1)

    class Wrong(nn.Module):
        def __init__(self):
            super().__init__()
            self.line = baseline

        def forward(self, x):
            return 1000 * self.line(x[:, None])[:, 0]

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(x.new_full((len(x),), 0.3)))
            pyro.sample("x", dist.Normal(2 * z, 1.0), obs=x)

    def guide(x):
        logit = pyro.param("logit", torch.tensor(0.2))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=logit.expand(len(x))))

    x = torch.randn(500)
    moved = []
    for clip_norm in (None, 1e6, 0.01):
        with pyro.get_param_store().scope():
            nn.init.constant_(baseline.weight, 0.01)
            nn.init.constant_(baseline.bias, 0.0)
            objective = REINFORCE(2, baseline=Wrong())
            svi = SVI(
                model, guide, lambda p: torch.optim.SGD(p, lr=1.0), objective, engine="eager",
                clip_norm=clip_norm,
            )  # fmt: skip
            pyro.set_rng_seed(0)
            before = baseline.weight.item()
            _, norm = svi.step_tensor((x,), divisor=500)
            moved.append(pyro.param("logit").item() - 0.2)
            apart = abs(baseline.weight.item() - before)
    assert moved[0] == pytest.approx(moved[1], rel=1e-4)
    assert norm == pytest.approx(abs(moved[0]), rel=1e-4)
    assert abs(moved[2]) == pytest.approx(0.01, rel=1e-3)
    assert 0 < apart <= 0.0101


def test_warmup_keeps_closed_forms():
    """With closed forms the loss of a pair without a likelihood has no noise at all."""

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(torch.zeros(len(x)), 1.0), obs=x)

    def guide(x):
        loc = pyro.param("loc", torch.tensor(1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc.expand(len(x)), 0.5))

    x = torch.zeros(64)
    gap = 0.5 * (1 + 0.25 - 1) - torch.tensor(0.5).log().item()
    trained = fit(
        model, guide, x, objective=ELBO(kl="analytic"), warmup=3, epochs=4, learning_rate=1e-12
    )
    for row, beta in zip(trained.history, (0.25, 0.5, 0.75, 1.0), strict=True):
        assert row["train_loss"] == pytest.approx(0.5 * 1.837877 + beta * gap, abs=1e-5)


def test_divergence_with_finite_losses_is_said():
    torch.manual_seed(0)
    sizes = {"x_shape": (4,), "z_dim": 2, "hidden": 16}
    model, guide = pvae.models.VAE(**sizes), pvae.guides.MeanField(**sizes)
    x = torch.rand(256, 4).round()
    calm = fit(model, guide, x, epochs=3, learning_rate=1e-3)
    assert not any("diverged" in note for note in calm.notes)

    # Adam at a rate of a million; in the third epoch alone.
    wild = fit(
        model, guide, x, epochs=3, optimizer=lambda p: torch.optim.Adam(p, lr=1e-3),
        scheduler=lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda n: 1e9 if n == 2 else 1.0),
    )  # fmt: skip
    (note,) = [note for note in wild.notes if "diverged" in note]
    assert "diverged in epoch 3" in note
    assert "lower the learning rate" in note


def test_undefined_bound_of_validation_data_is_said():
    """Training goes on, as with Pyro."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        loc = pyro.param("loc", torch.tensor(0.0))
        with pyro.plate("data", len(x)):
            u, v = (
                pyro.sample(
                    name, dist.Normal(loc.expand(len(x)), 1.0), infer={"is_auxiliary": True}
                )
                for name in "uv"
            )
            pyro.sample("z", dist.Delta(u + v))

    x = torch.randn(64)
    trained = fit(model, guide, x, valid=x)
    assert "valid_elbo" not in trained.history[0]
    assert any("no bound on validation data" in note for note in trained.notes)
    with pytest.raises(pvae.UndefinedQuantityError, match="auxiliary"):
        fit(model, guide, x, valid=x, patience=2)


def test_point_guide_is_noted():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        loc = pyro.param("loc", torch.tensor(0.3))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(loc * x))

    x = torch.randn(64)
    trained = fit(model, guide, x, valid=x)
    assert any("about log p(x, z)" in note for note in trained.notes)


def test_autoguides_have_no_note_at_any_seed():
    """Sites that are computed from auxiliary ones are found by draws that are not the fit's."""

    def model(x):
        loc = pyro.sample("loc", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    for seed in (0, 1):
        guide = pyro.infer.autoguide.AutoNormal(model)
        fit = pvae.fit(model, guide, torch.randn(8, 3), epochs=1, seed=seed, progress=False)
        assert not fit.notes
